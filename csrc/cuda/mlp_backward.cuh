// The way back through a tile: df/dh of every neuron, and gradients.
#pragma once

#include "cuda/mlp_tile.cuh"
#include "cuda/split_product.cuh"
#include "cuda/warp_sums.cuh"

namespace jpmap {

// A warp a row: df/da of columns [column, column + width) of layer l, split but of layer 0, from
// df/dh: of the last layer in the workspace, of others in the place of df/da, from where it goes
// there.
__device__ __forceinline__ void settle_rows(const MlpTileView& tile, const int* accepted, int count,
                                            int l, int column, int width) {
  constexpr int kAhead = 8;
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[l];
  const int lane = this_lane(), warp = this_warp();
  const bool last = l + 1 == tile.net.count;
  with_activation(layer.activation, [&](auto activation) {
    for (int row = warp; row < count; row += kMlpWarps) {
      float* x = tile.floats(l % 2) + row * split_stride(width);
      float* mine = tile.slot(accepted[row]) + column;
      float largest = 0;
      // Reads ahead of the writes, which the compiler may not move them past.
      for (int begin = 2 * lane; begin < width; begin += 64 * kAhead) {
        float2 pull[kAhead], root[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int j = begin + 64 * i;
          const float2 none = make_float2(0, 0);
          root[i] = j < width ? load2(mine + at.root[l] + j) : none;
          pull[i] = j >= width ? none : last ? load2(mine + at.pull[l] + j) : load2(x + j);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int j = begin + 64 * i;
          if (j >= width) break;
          const float d0 = pull[i].x * derivatives_of(activation.value, root[i].x).slope;
          const float d1 = pull[i].y * derivatives_of(activation.value, root[i].y).slope;
          if (!last) store2(mine + at.pull[l] + j, pull[i].x, pull[i].y);
          store2(x + j, d0, d1);
          largest = fmaxf(largest, fmaxf(fabsf(d0), fabsf(d1)));
        }
      }
      if (l == 0) continue;
      const float factor = split_row(x, width, largest);
      if (lane == 0) tile.factors[row] = factor;
    }
  });
}

// The network's part of the gradients of the accepted slots, from df/da of layer 0, and z. A warp
// has up to four rows, so that it reads the weights once for all of them.
__device__ __forceinline__ void add_gradients(const MlpTileView& tile, const int* accepted,
                                              int count) {
  constexpr int kRows = kMlpImages / kMlpWarps;
  const int k = tile.net.latent, lane = this_lane(), warp = this_warp();
  const auto& first = tile.net.layers[0];
  const float* x = tile.floats(0) + warp * split_stride(first.stride);
  const int next = kMlpWarps * split_stride(first.stride);
  const int rows = (count - warp + kMlpWarps - 1) / kMlpWarps;
  if (warp >= count) return;
  for (int c0 = 0; c0 < k; c0 += 8) {
    float sum[8 * kRows] = {};
#pragma unroll 4
    for (int j = lane; j < first.stride; j += 32) {
      float w[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        w[c] = __ldg(first.columns + min(c0 + c, k - 1) * first.stride + j);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float pull = x[min(i, rows - 1) * next + j];
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[8 * i + c] = fmaf(pull, w[c], sum[8 * i + c]);
      }
    }
    warp_sums(sum, [&](int i, float value) {
      const int row = warp + kMlpWarps * (i / 8), c = c0 + i % 8;
      if (row >= count || c >= k) return;
      const int at = accepted[row] * k + c;
      tile.gradient[at] = tile.trial[at] + value;
    });
  }
}

// df/dh of layer l - 1 from df/da of columns [column, column + width) of layer l: sets them with
// the first columns, adds those of others.
__device__ __forceinline__ void pull(const MlpTileView& tile, int l, int count, int column,
                                     int width) {
  const auto& layer = tile.net.layers[l];
  split_product({tile.floats(l % 2), tile.factors, tile.floats((l + 1) % 2),
                 layer.split_columns + 16 * column, unscale_of(layer), split_stride(width),
                 split_stride(layer.inputs), 16 * layer.stride, width, count, column > 0},
                layer.inputs);
}

// df/dh of every layer of the accepted slots, and their gradients.
__device__ __forceinline__ void backward(const MlpTileView& tile, const int* accepted, int count) {
  const auto& net = tile.net;
  const int last = net.count - 1, piece = tile.at.piece;
  for (int column = 0; column < net.layers[last].stride; column += piece) {
    const int width = min(piece, net.layers[last].stride - column);
    settle_rows(tile, accepted, count, last, column, width);
    __syncthreads();  // backward(last)
    if (last == 0) break;
    pull(tile, last, count, column, width);
    __syncthreads();  // pulled
  }
  for (int l = last; l > 0; --l) {
    if (l < last) {
      pull(tile, l, count, 0, net.layers[l].stride);
      __syncthreads();  // pulled
    }
    settle_rows(tile, accepted, count, l - 1, 0, net.layers[l - 1].stride);
    __syncthreads();  // backward(l - 1)
  }
  add_gradients(tile, accepted, count);
  __syncthreads();  // gradient
}

}  // namespace jpmap
