// Outputs and objectives of a tile of images at their trial codes.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"
#include "cuda/split_product.cuh"

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

// A warp a row: from the sums of columns [column, column + width) of layer l over its inputs,
// pre-activations and outputs, which are left in the sums' place, split, where a layer follows.
__device__ __forceinline__ void activate_rows(const MlpTileView& tile, int l, int column,
                                              int width) {
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[l];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool last = l + 1 == tile.net.count;
  with_activation(layer.activation, [&](auto activation) {
    for (int row = warp; row < at.images; row += kMlpWarps) {
      float* y = tile.floats(l % 2) + row * split_stride(width);
      float* mine = tile.slot(row) + column;
      float largest = 0;
#pragma unroll 4
      for (int j = 2 * lane; j < width; j += 64) {
        const float2 sum = load2(y + j);
        const float2 bias = l == 0 ? make_float2(0, 0) : load2(layer.bias + column + j);
        const float a0 = sum.x + bias.x, a1 = sum.y + bias.y;
        const float h0 = activate(activation.value, a0), h1 = activate(activation.value, a1);
        store2(mine + at.pre[l] + j, a0, a1);
        store2(mine + at.value[l] + j, h0, h1);
        if (last) continue;
        store2(y + j, h0, h1);
        largest = fmaxf(largest, fmaxf(fabsf(h0), fabsf(h1)));
      }
      if (last) continue;
      const float factor = split_row(y, width, largest);
      if (lane == 0) tile.factors[row] = factor;
    }
  });
}

// The network at the trial codes of all slots: pre-activations and outputs of every layer.
__device__ __forceinline__ void forward(const MlpTileView& tile) {
  const auto& net = tile.net;
  const auto& first = net.layers[0];
  float* bottom = tile.floats(0);
  first_layer(net, tile.trial, tile.at.images,
              [&](int row, int j, float a) { bottom[row * split_stride(first.stride) + j] = a; });
  __syncthreads();  // summed
  activate_rows(tile, 0, 0, first.stride);
  __syncthreads();  // forward(0)
  for (int l = 1; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const int piece = l + 1 == net.count ? tile.at.piece : layer.stride;
    for (int column = 0; column < layer.stride; column += piece) {
      const int width = min(piece, layer.stride - column);
      const __half* w = layer.split_rows + static_cast<int64_t>(column) * 2 * layer.inputs;
      split_product({tile.floats((l + 1) % 2), tile.factors, tile.floats(l % 2), w,
                     unscale_of(layer), split_stride(layer.inputs), split_stride(width),
                     16 * layer.inputs, layer.inputs, tile.at.images, false},
                    width);
      __syncthreads();  // summed
      activate_rows(tile, l, column, width);
      __syncthreads();  // forward(l)
    }
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
