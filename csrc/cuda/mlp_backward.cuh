// The way back through a tile: gradients, and what the curvature needs of every neuron.
#pragma once

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

constexpr float kLeastHalf = 5.9604645e-8f;  // 2^-24

// Replaces pre-activation and output of a neuron, given df/dh, by f' and by the weight that its
// tangents f' A get in the Hessian, df/dh f'' / f'^2; returns df/da. Below the least number of
// float16 a slope leaves nothing of its tangents, and its square would not divide: no weight.
__device__ inline float settle(Activation kind, float pull, float& pre, float& value) {
  const Derivatives d = derivatives(kind, pre, value);
  pre = d.slope;
  value = fabsf(d.slope) < kLeastHalf ? 0.0f : pull * (d.bend / d.slope) / d.slope;
  return pull * d.slope;
}

// The residuals of the accepted slots: df/da, slopes, weights and precisions of the last layer.
__device__ __forceinline__ void settle_outputs(const MlpTileView& tile, const MlpData& data,
                                               const long long* images, const int* accepted,
                                               int count) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int last = net.count - 1, p = net.outputs;
  const auto& top = net.layers[last];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = warp; row < count; row += kMlpWarps) {
    const long long image = images[accepted[row]];
    const Law law = law_of(data, image);
    float* mine = tile.slot(accepted[row]);
    float* x = tile.floats(last % 2) + row * float_row(top.stride);
    // Reads in fours ahead of the writes, which the compiler may not move them past.
    for (int begin = lane; begin < top.stride; begin += 128) {
      float pull[4], precision[4], pre[4], value[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        pull[i] = precision[i] = pre[i] = value[i] = 0.0f;
        if (j >= p) continue;
        pre[i] = mine[at.pre[last] + j];
        value[i] = mine[at.value[last] + j];
        const Compared found = compare(measured(data, image, p, j), law, value[i]);
        pull[i] = found.pull;
        precision[i] = found.precision;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        if (j >= top.stride) continue;
        x[j] = settle(top.activation, pull[i], pre[i], value[i]);
        mine[at.precision + j] = precision[i];
        mine[at.pre[last] + j] = pre[i];
        mine[at.value[last] + j] = value[i];
      }
    }
  }
}

// The network's part of the gradients of the accepted slots, from df/da of layer 0, and z.
__device__ __forceinline__ void add_gradients(const MlpTileView& tile, const int* accepted,
                                              int count) {
  const int k = tile.net.latent, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto& first = tile.net.layers[0];
  for (int row = warp; row < count; row += kMlpWarps) {
    const float* x = tile.floats(0) + row * float_row(first.stride);
    const int slot = accepted[row];
    for (int c0 = 0; c0 < k; c0 += 8) {
      float sum[8] = {};
      for (int j = lane; j < first.stride; j += 32) {
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          if (c0 + c < k) sum[c] = fmaf(x[j], first.columns[(c0 + c) * first.stride + j], sum[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        for (int offset = 16; offset > 0; offset /= 2) {
          sum[c] += __shfl_xor_sync(0xffffffffu, sum[c], offset);
        }
        if (lane == 0 && c0 + c < k) {
          tile.gradient[slot * k + c0 + c] = tile.trial[slot * k + c0 + c] + sum[c];
        }
      }
    }
  }
}

// Slopes and Hessian weights of every layer of the accepted slots, and their gradients.
__device__ __forceinline__ void backward(const MlpTileView& tile, const MlpData& data,
                                         const long long* images, const int* accepted, int count) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int last = net.count - 1;
  settle_outputs(tile, data, images, accepted, count);
  __syncthreads();  // backward(last)
  for (int l = last; l > 0; --l) {
    const auto& layer = net.layers[l];
    const auto& below = net.layers[l - 1];
    float* y = tile.floats((l + 1) % 2);
    const int y_stride = float_row(below.stride);
    float_product(
        tile.floats(l % 2), float_row(layer.stride), layer.columns, layer.stride, layer.inputs,
        count,
        [&](int row, int column) {
          const float* mine = tile.slot(accepted[min(row, count - 1)]) + column;
          const float2 pre = load2(mine + at.pre[l - 1]);
          const float2 value = load2(mine + at.value[l - 1]);
          return make_float4(pre.x, pre.y, value.x, value.y);
        },
        [&](int row, int column, float v0, float v1, float4 here) {
          if (row >= count) return;
          float* mine = tile.slot(accepted[row]);
          v0 = settle(below.activation, v0, here.x, here.z);
          v1 = settle(below.activation, v1, here.y, here.w);
          store2(mine + at.pre[l - 1] + column, here.x, here.y);
          store2(mine + at.value[l - 1] + column, here.z, here.w);
          store2(y + row * y_stride + column, v0, v1);
        });
    __syncthreads();  // backward(l - 1)
  }
  add_gradients(tile, accepted, count);
  __syncthreads();  // gradient
}

}  // namespace jpmap
