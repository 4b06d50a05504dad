// Where the numbers of a tile of images stand: in a block's shared memory and in its share of a
// workspace in device memory. Plain C++, so that Python can ask what fits where there is no GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mlp_network.h"

namespace jpmap {

constexpr int kMlpImages = 32;       // at most, a tile
constexpr int kMlpTangentRows = 64;  // at most, that pass through the network together
constexpr int kMlpReserved = 4096;   // bytes of shared memory the kernels use beside a layout
// What rows in shared memory are longer than their numbers: floats that are read 16 bytes a lane,
// and split rows and halves, read in fragments.
constexpr int kFloatPad = 16, kSplitPad = 4, kHalfPad = 8;

// Sizes of a network for a GPU: latent dimensions, and every layer's outputs padded to a multiple
// of 32.
struct MlpShape {
  int64_t latent;
  int count;
  int64_t strides[kMaxLayers];
};

struct MlpLayout {
  int images;        // slots of the tile
  int latent_rows;   // tangents an image, padded to 8, 16, 32 or 64
  int latent_shift;  // its logarithm
  int tangent_rows;  // of the images that are differentiated together
  int area[2];       // bytes of two areas: rows of even layers pass through one, of odd the other
  int piece;         // columns of the last layer that pass together
  int staged;  // floats of slopes, Hessian weights and, of the last layer, precisions of a piece
  int codes;   // floats of one of: codes, trial codes, gradients
  // One slot of the workspace, in floats: of every neuron its root (cuda/mlp_network.cuh) and
  // df/dh, of every output its precision, and the system.
  int root[kMaxLayers], pull[kMaxLayers], precision, matrix, hessian, slot;
  int64_t bytes;  // of shared memory, counted wide: a layout of more than a device has is none

  MlpLayout(const MlpShape& net, int tile_images, int rows) : images(tile_images) {
    const int64_t k = net.latent, last = net.strides[net.count - 1];
    latent_shift = 3;
    while (1 << latent_shift < k) ++latent_shift;
    latent_rows = 1 << latent_shift;
    tangent_rows = std::max(rows, std::max(16, latent_rows));
    int64_t widest = 128, at = 0;  // of what an area holds: the last layer is there in pieces
    const auto take = [&](int64_t floats) {
      const int64_t begin = at;
      at += floats;
      return static_cast<int>(begin);
    };
    for (int l = 0; l < net.count; ++l) {
      root[l] = take(net.strides[l]);
      pull[l] = take(net.strides[l]);
      if (l == 0 || l + 1 < net.count) widest = std::max(widest, net.strides[l]);
    }
    precision = take(last);
    matrix = take((k * k + 3) / 4 * 4);
    hessian = take((k * k + 3) / 4 * 4);
    slot = static_cast<int>(at);
    // Sums over the last layer are added up piece by piece: where a piece ends decides their last
    // bits. So it is the network's alone, whatever tile an image is in: pieces of nearly one size.
    const int64_t pieces = (last + widest - 1) / widest;
    piece = static_cast<int>((last + pieces - 1) / pieces + 31) / 32 * 32;
    bytes = 0;
    for (int parity = 0; parity < 2; ++parity) {
      int64_t own = 0;
      for (int l = parity; l < net.count; l += 2) {
        own = std::max<int64_t>(own, l + 1 < net.count ? net.strides[l] : piece);
      }
      const int64_t values = 4 * ((images + 15) / 16 * 16) * (own + kSplitPad);
      const int64_t tangents = 2 * tangent_rows * (own + kHalfPad);
      const int64_t algebra = 8 * k * (k + 1);  // of a warp; in both areas together, of several
      const int64_t each = rounded(std::max({values, tangents, algebra}));
      area[parity] = static_cast<int>(each);
      bytes += each;
    }
    const int64_t together = tangent_rows / latent_rows;
    int64_t stage = 3 * piece;
    for (int l = 0; l + 1 < net.count; ++l) stage = std::max(stage, 2 * net.strides[l]);
    staged = static_cast<int>(together * stage);
    codes = static_cast<int>((images * k + 3) / 4 * 4);
    bytes += 4 * together * stage + int64_t{12} * codes;
  }

  // Up to whole cache lines.
  static int64_t rounded(int64_t bytes) { return (bytes + 127) / 128 * 128; }
};

// What a block of mlp_log_likelihood holds of its draws, in this order; widths as in MlpShape.
struct MlpDrawLayout {
  static constexpr int kSums = 32;  // a row, one a thread that has some of its outputs

  int rows;       // draws that pass through the network together, 16 or 32
  int area[2];    // bytes of two areas, after double [rows][kSums]: as of MlpLayout
  int64_t bytes;  // of shared memory, with the codes at the end

  MlpDrawLayout(const MlpShape& net, int draw_rows) : rows(draw_rows) {
    bytes = 8 * rows * kSums + 4 * rows * net.latent;
    for (int parity = 0; parity < 2; ++parity) {
      // The last layer's outputs are compared where they are made, but for a single layer's.
      int64_t widest = parity == 0 ? net.strides[0] : 0;
      for (int l = parity; l + 1 < net.count; l += 2) widest = std::max(widest, net.strides[l]);
      const int64_t each = widest == 0 ? 0 : 4 * rows * (widest + kFloatPad);
      area[parity] = static_cast<int>(each);
      bytes += each;
    }
  }
};

// The tile of all that takes the least memory: where it does not fit, none does.
inline MlpLayout least_layout(const MlpShape& net) { return MlpLayout(net, 1, 16); }

}  // namespace jpmap
