// Where the numbers of a tile of images stand: in a block's shared memory and in its share of a
// workspace in device memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_network.cuh"

namespace jpmap {

constexpr int kMlpImages = 32;       // at most, a tile
constexpr int kMlpTangentRows = 64;  // at most, that pass through the network together

struct MlpLayout {
  int images;        // slots of the tile
  int latent_rows;   // tangents an image, padded to 8, 16, 32 or 64
  int latent_shift;  // its logarithm
  int tangent_rows;  // of the images that are differentiated together
  int area;          // bytes of each of two areas that rows pass between
  int piece;         // columns of the last layer's tangents that an area holds
  int staged;        // floats of one of: slopes, Hessian weights, precisions of a piece
  int codes;         // floats of one of: codes, trial codes, gradients
  // One slot of the workspace, in floats. After `forward` a layer has its pre-activations in `pre`
  // and its outputs in `value`, after `backward` f' and what f'' adds to the curvature.
  int pre[kMaxLayers], value[kMaxLayers], precision, matrix, hessian, slot;

  MlpLayout(const MlpNetwork& net, int tile_images, int rows) : images(tile_images) {
    const int k = net.latent;
    latent_shift = 3;
    while (1 << latent_shift < k) ++latent_shift;
    latent_rows = 1 << latent_shift;
    tangent_rows = std::max(rows, std::max(16, latent_rows));
    int widest = 128, hidden = 128, at = 0;
    for (int l = 0; l < net.count; ++l) {
      pre[l] = at;
      value[l] = at + net.layers[l].stride;
      at += 2 * net.layers[l].stride;
      widest = std::max(widest, net.layers[l].stride);
      if (l + 1 < net.count) hidden = std::max(hidden, net.layers[l].stride);
    }
    precision = at;
    matrix = precision + net.layers[net.count - 1].stride;
    hessian = matrix + (k * k + 3) / 4 * 4;
    slot = hessian + (k * k + 3) / 4 * 4;
    area = std::max(4 * ((images + 15) / 16 * 16) * float_row(widest),
                    2 * tangent_rows * (hidden + 32));
    area = std::max(area, 8 * k * (k + 1));
    area = (area + 127) / 128 * 128;
    piece = (area / (2 * tangent_rows) - 32) / 32 * 32;
    staged = tangent_rows / latent_rows * std::max(hidden, piece);
    codes = (images * k + 3) / 4 * 4;
  }

  __host__ __device__ int64_t bytes() const { return 2 * area + 12 * staged + 12 * codes; }
};

}  // namespace jpmap
