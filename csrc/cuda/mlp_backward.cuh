// The way back through a tile: gradients, and what the curvature needs of every neuron.
#pragma once

#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"
#include "cuda/split_product.cuh"

namespace jpmap {

constexpr float kLeastHalf = 5.9604645e-8f;  // 2^-24

// Replaces pre-activation and output of a neuron, given df/dh, by f' and by the weight that its
// tangents f' A get in the Hessian, df/dh f'' / f'^2; returns df/da. Below the least number of
// float16 a slope leaves nothing of its tangents, and its square would not divide: no weight.
__device__ inline float settle(Activation kind, float pull, float& pre, float& value) {
  const Derivatives d = derivatives(kind, pre, value);
  pre = d.slope;
  const float inverse = __frcp_rn(d.slope);
  value = fabsf(d.slope) < kLeastHalf ? 0.0f : pull * (d.bend * inverse) * inverse;
  return pull * d.slope;
}

// One warp: df/da of a row to what the layer below takes, the gradient's first layer as it is.
__device__ __forceinline__ void pass_down(const MlpTileView& tile, int l, int row, float* x,
                                          int width, float largest) {
  if (l == 0) return;
  const float factor = split_row(x, width, largest);
  if (threadIdx.x % 32 == 0) tile.factors[row] = factor;
}

// The residuals of the accepted slots: df/da, slopes, weights and precisions of columns
// [column, column + width) of the last layer.
__device__ __forceinline__ void settle_outputs(const MlpTileView& tile, const MlpData& data,
                                               const long long* images, const int* accepted,
                                               int count, int column, int width) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int last = net.count - 1, p = min(net.outputs - column, width);
  const auto& top = net.layers[last];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = warp; row < count; row += kMlpWarps) {
    const long long image = images[accepted[row]];
    const Law law = law_of(data, image);
    float* mine = tile.slot(accepted[row]) + column;
    float* x = tile.floats(last % 2) + row * split_stride(width);
    float largest = 0;
    // Reads in fours ahead of the writes, which the compiler may not move them past.
    for (int begin = lane; begin < width; begin += 128) {
      float pull[4], precision[4], pre[4], value[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        pull[i] = precision[i] = pre[i] = value[i] = 0.0f;
        if (j >= p) continue;
        pre[i] = mine[at.pre[last] + j];
        value[i] = mine[at.value[last] + j];
        const Compared found =
            compare(measured(data, image, net.outputs, column + j), law, value[i]);
        pull[i] = found.pull;
        precision[i] = found.precision;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        if (j >= width) continue;
        const float down = settle(top.activation, pull[i], pre[i], value[i]);
        x[j] = down;
        largest = fmaxf(largest, fabsf(down));
        mine[at.precision + j] = precision[i];
        mine[at.pre[last] + j] = pre[i];
        mine[at.value[last] + j] = value[i];
      }
    }
    pass_down(tile, last, row, x, width, largest);
  }
}

// A warp a row: from df/dh of layer l, its slopes and weights, and df/da in the place of df/dh.
__device__ __forceinline__ void settle_rows(const MlpTileView& tile, const int* accepted, int count,
                                            int l) {
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[l];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  with_activation(layer.activation, [&](auto activation) {
    for (int row = warp; row < count; row += kMlpWarps) {
      float* x = tile.floats(l % 2) + row * split_stride(layer.stride);
      float* slopes = tile.slot(accepted[row]) + at.pre[l];
      float* weights = tile.slot(accepted[row]) + at.value[l];
      float largest = 0;
      // Reads ahead of the writes, which the compiler may not move them past.
      for (int begin = 2 * lane; begin < layer.stride; begin += 256) {
        float2 pull[4], pre[4], value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = begin + 64 * i;
          if (j >= layer.stride) break;
          pull[i] = load2(x + j);
          pre[i] = load2(slopes + j);
          value[i] = load2(weights + j);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = begin + 64 * i;
          if (j >= layer.stride) break;
          const float d0 = settle(activation.value, pull[i].x, pre[i].x, value[i].x);
          const float d1 = settle(activation.value, pull[i].y, pre[i].y, value[i].y);
          store2(x + j, d0, d1);
          store2(slopes + j, pre[i].x, pre[i].y);
          store2(weights + j, value[i].x, value[i].y);
          largest = fmaxf(largest, fmaxf(fabsf(d0), fabsf(d1)));
        }
      }
      pass_down(tile, l, row, x, layer.stride, largest);
    }
  });
}

// The network's part of the gradients of the accepted slots, from df/da of layer 0, and z. A warp
// has up to four rows, so that it reads the weights once for all of them.
__device__ __forceinline__ void add_gradients(const MlpTileView& tile, const int* accepted,
                                              int count) {
  constexpr int kRows = kMlpImages / kMlpWarps;
  const int k = tile.net.latent, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto& first = tile.net.layers[0];
  const float* x = tile.floats(0) + warp * split_stride(first.stride);
  const int next = kMlpWarps * split_stride(first.stride);
  for (int c0 = 0; c0 < k; c0 += 8) {
    float sum[kRows][8] = {};
    for (int j = lane; j < first.stride; j += 32) {
      float w[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        w[c] = c0 + c < k ? first.columns[(c0 + c) * first.stride + j] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (warp + kMlpWarps * i >= count) break;
        const float pull = x[i * next + j];
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[i][c] = fmaf(pull, w[c], sum[i][c]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (warp + kMlpWarps * i >= count) break;
      const int slot = accepted[warp + kMlpWarps * i];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        for (int offset = 16; offset > 0; offset /= 2) {
          sum[i][c] += __shfl_xor_sync(0xffffffffu, sum[i][c], offset);
        }
        if (lane == 0 && c0 + c < k) {
          tile.gradient[slot * k + c0 + c] = tile.trial[slot * k + c0 + c] + sum[i][c];
        }
      }
    }
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

// Slopes and Hessian weights of every layer of the accepted slots, and their gradients.
__device__ __forceinline__ void backward(const MlpTileView& tile, const MlpData& data,
                                         const long long* images, const int* accepted, int count) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int last = net.count - 1;
  for (int column = 0; column < net.layers[last].stride; column += at.piece) {
    const int width = min(at.piece, net.layers[last].stride - column);
    settle_outputs(tile, data, images, accepted, count, column, width);
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
    settle_rows(tile, accepted, count, l - 1);
    __syncthreads();  // backward(l - 1)
  }
  add_gradients(tile, accepted, count);
  __syncthreads();  // gradient
}

}  // namespace jpmap
