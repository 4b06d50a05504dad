// Weighted k x k products of an image's tangents in float16, on the matrix units.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/matrix_product.cuh"

namespace jpmap {

// Eight float16 numbers of a row in shared memory.
__device__ inline void read_eight(const __half* p, float (&into)[8]) {
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    into[2 * i] = pair.x;
    into[2 * i + 1] = pair.y;
  }
}

// One warp: eight columns of an image's matrix sum_j T_aj weight_j T_bj, from `width` columns of
// its tangents [kRows][..] at `rows`; the columns belong to the tangents from `eight` on.
template <int kRows>
__device__ void gram(const __half* rows, int row_stride, int eight, const float* weight, int width,
                     float (&sum)[(kRows + 15) / 16][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll 2
  for (int q = 8 * t; q < width; q += 32) {
    float b[8], scaled[8];
    read_eight(rows + (eight + g) * row_stride + q, b);
    const float4 w0 = *reinterpret_cast<const float4*>(weight + q);
    const float4 w1 = *reinterpret_cast<const float4*>(weight + q + 4);
    const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) scaled[i] = b[i] * w[i];
#pragma unroll
    for (int m = 0; m < (kRows + 15) / 16; ++m) {
      float top[8], low[8] = {};
      if constexpr (kRows == 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i) top[i] = b[i];
      } else {
        read_eight(rows + (16 * m + g) * row_stride + q, top);
        read_eight(rows + (16 * m + g + 8) * row_stride + q, low);
      }
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        mma_tf32(sum[m], __float_as_uint(top[i]), __float_as_uint(low[i]),
                 __float_as_uint(top[i + 1]), __float_as_uint(low[i + 1]), nearest_tf32(scaled[i]),
                 nearest_tf32(scaled[i + 1]));
      }
    }
  }
}

// Adds to (or, `fresh`, sets) eight columns of a k x k matrix in device memory.
template <int kTiles>
__device__ void add_columns(const float (&sum)[kTiles][4], int eight, int k, bool fresh,
                            float diagonal, float* matrix) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int a = 16 * m + g + (e / 2) * 8, b = eight + 2 * t + e % 2;
      if (a >= k || b >= k) continue;
      const float before = fresh ? (a == b ? diagonal : 0.0f) : matrix[a * k + b];
      matrix[a * k + b] = before + sum[m][e];
    }
  }
}

// One warp: what a piece of a layer's tangents adds to eight columns of one of a slot's matrices,
// each tangent's square by its weight; nothing without `weights`. `fresh`, as of `add_columns`.
template <int kRows>
__device__ void add_piece(const __half* rows, int row_stride, int eight, const float* weights,
                          int width, int k, bool fresh, float diagonal, float* matrix) {
  constexpr int kTiles = (kRows + 15) / 16;
  float sum[kTiles][4] = {};
  if (weights != nullptr) gram<kRows>(rows, row_stride, eight, weights, width, sum);
  add_columns<kTiles>(sum, eight, k, fresh, diagonal, matrix);
}

}  // namespace jpmap
