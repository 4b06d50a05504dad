// Outputs and objectives of a tile of images at their trial codes.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/matrix_product.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

// Layer 0 at codes [rows][k] in shared memory, four at a time: finish(row, output, pre-activation).
template <class Finish>
__device__ __forceinline__ void first_layer(const MlpNetwork& net, const float* codes, int rows,
                                            const Finish& finish) {
  const int k = net.latent;
  const auto& first = net.layers[0];
  for (int j = threadIdx.x; j < first.stride; j += kMlpThreads) {
    const float bias = first.bias[j];
    for (int begin = 0; begin < rows; begin += 4) {
      float sum[4] = {bias, bias, bias, bias};
      for (int c = 0; c < k; ++c) {
        const float w = first.columns[c * first.stride + j];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = min(begin + i, rows - 1);
          sum[i] = fmaf(w, codes[row * k + c], sum[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (begin + i >= rows) break;
        finish(begin + i, j, sum[i]);
      }
    }
  }
}

// The network at the trial codes of all slots: pre-activations and outputs of every layer.
__device__ __forceinline__ void forward(const MlpTileView& tile) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const auto& first = net.layers[0];
  float* bottom = tile.floats(0);
  first_layer(net, tile.trial, at.images, [&](int row, int j, float a) {
    const float h = activate(first.activation, a);
    float* mine = tile.slot(row);
    mine[at.pre[0] + j] = a;
    mine[at.value[0] + j] = h;
    bottom[row * float_row(first.stride) + j] = h;
  });
  __syncthreads();  // forward(0)
  for (int l = 1; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const bool last = l + 1 == net.count;
    float* y = tile.floats(l % 2);
    const int y_stride = float_row(layer.stride);
    float_product(
        tile.floats((l + 1) % 2), float_row(layer.inputs), layer.rows, layer.inputs, layer.stride,
        at.images, [&](int, int column) { return load2(layer.bias + column); },
        [&](int row, int column, float v0, float v1, float2 bias) {
          if (row >= at.images) return;
          v0 += bias.x;
          v1 += bias.y;
          const float h0 = activate(layer.activation, v0);
          const float h1 = activate(layer.activation, v1);
          float* mine = tile.slot(row);
          store2(mine + at.pre[l] + column, v0, v1);
          store2(mine + at.value[l] + column, h0, h1);
          if (!last) store2(y + row * y_stride + column, h0, h1);
        });
    __syncthreads();  // forward(l)
  }
}

// One warp: f at the trial of a slot.
__device__ inline double objective(const MlpTileView& tile, const MlpData& data, int slot,
                                   long long image) {
  const auto& net = tile.net;
  const int lane = threadIdx.x % 32, p = net.outputs;
  const float* out = tile.slot(slot) + tile.at.value[net.count - 1];
  const float* trial = tile.trial + slot * net.latent;
  const Law law = law_of(data, image);
  double total = 0;
#pragma unroll 8
  for (int j = lane; j < p; j += 32) {
    total += compare(measured(data, image, p, j), law, out[j]).term;
  }
  for (int c = lane; c < net.latent; c += 32) total += static_cast<double>(trial[c]) * trial[c];
  return 0.5 * group_sum<32>(total) + (data.constant == nullptr ? 0.0 : data.constant[image]);
}

}  // namespace jpmap
