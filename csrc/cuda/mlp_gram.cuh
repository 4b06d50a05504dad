// Weighted k x k products of an image's tangents in float16, on the matrix units.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_tile.cuh"

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

template <int kSums, int kTiles>
__device__ __forceinline__ void add_up(const float (&sum)[kSums][kTiles][4],
                                       float (&total)[kTiles][4]) {
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      total[m][e] = sum[0][m][e];
#pragma unroll
      for (int s = 1; s < kSums; ++s) total[m][e] += sum[s][m][e];
    }
  }
}

// One warp: eight columns of an image's matrix sum_j T_aj weight_j T_bj, from `width` columns of
// its tangents [kRows][..] at `rows`; the columns belong to the tangents from `eight` on. Several
// sums next to each other: one alone would have every matrix instruction wait for the one before.
template <int kRows>
__device__ void gram(const __half* rows, int row_stride, int eight, const float* weight, int width,
                     float (&total)[kRows / 16][4]) {
  constexpr int kTiles = kRows / 16, kSums = 4 / kTiles;
  const int lane = this_lane(), g = lane / 4, t = lane % 4;
  float sum[kSums][kTiles][4] = {};
#pragma unroll 2
  for (int q = 8 * t; q < width; q += 32) {
    float b[8];
    read_eight(rows + (eight + g) * row_stride + q, b);
    const float4 w0 = load4(weight + q), w1 = load4(weight + q + 4);
    const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) b[i] *= w[i];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      float top[8], low[8];
      read_eight(rows + (16 * m + g) * row_stride + q, top);
      read_eight(rows + (16 * m + g + 8) * row_stride + q, low);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        mma_tf32(sum[i / 2 % kSums][m], __float_as_uint(top[i]), __float_as_uint(low[i]),
                 __float_as_uint(top[i + 1]), __float_as_uint(low[i + 1]), nearest_tf32(b[i]),
                 nearest_tf32(b[i + 1]));
      }
    }
  }
  add_up(sum, total);
}

// One warp: two such matrices of eight tangents at once, the second one below the first: a matrix
// instruction has sixteen rows. Adds them to `total`, nothing where there are no weights.
__device__ __forceinline__ void gram_pair(const __half* rows, int row_stride, const float* first,
                                          const float* second, int width, float (&total)[4]) {
  const int lane = this_lane(), g = lane / 4, t = lane % 4;
  float sum[4][1][4] = {};
#pragma unroll 4
  for (int q = 8 * t; q < width; q += 32) {
    float b[8];
    read_eight(rows + g * row_stride + q, b);
    uint32_t a[2][8] = {};
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float* weight = part == 0 ? first : second;
      if (weight == nullptr) continue;
      const float4 w0 = load4(weight + q), w1 = load4(weight + q + 4);
      const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) a[part][i] = nearest_tf32(b[i] * w[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      mma_tf32(sum[i / 2][0], a[0][i], a[1][i], a[0][i + 1], a[1][i + 1], __float_as_uint(b[i]),
               __float_as_uint(b[i + 1]));
    }
  }
  float added[1][4];
  add_up(sum, added);
#pragma unroll
  for (int e = 0; e < 4; ++e) total[e] += added[0][e];
}

// Adds to (or, `fresh`, sets) eight columns of rows [row, row + 8) of a k x k matrix in device
// memory what the matrix unit leaves in half a tile.
__device__ __forceinline__ void add_half(float left, float right, int row, int eight, int k,
                                         bool fresh, float diagonal, float* matrix) {
  const int lane = this_lane(), a = row + lane / 4;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int b = eight + 2 * (lane % 4) + e;
    if (a >= k || b >= k) continue;
    const float before = fresh ? (a == b ? diagonal : 0.0f) : matrix[a * k + b];
    matrix[a * k + b] = before + (e == 0 ? left : right);
  }
}

// A matrix that a piece of a layer's tangents adds to.
struct PieceMatrix {
  const float* weights;  // of the tangents' squares; null: nothing is added
  bool fresh;            // it is set, to `diagonal` and what is added
  float diagonal;
  float* matrix;
};

// One warp: what a piece adds to eight columns of one of a slot's matrices.
template <int kRows>
__device__ void add_piece(const __half* rows, int row_stride, int eight, int width, int k,
                          const PieceMatrix& to) {
  float sum[kRows / 16][4] = {};
  if (to.weights != nullptr) gram<kRows>(rows, row_stride, eight, to.weights, width, sum);
#pragma unroll
  for (int m = 0; m < kRows / 16; ++m) {
    add_half(sum[m][0], sum[m][1], 16 * m, eight, k, to.fresh, to.diagonal, to.matrix);
    add_half(sum[m][2], sum[m][3], 16 * m + 8, eight, k, to.fresh, to.diagonal, to.matrix);
  }
}

// One warp: both matrices of eight tangents, whose sums `gram_pair` has left in the lanes.
__device__ __forceinline__ void set_pair(const float (&total)[4], int k, float* first,
                                         float* second) {
  add_half(total[0], total[1], 0, 0, k, true, 0.0f, first);
  add_half(total[2], total[3], 0, 0, k, true, 1.0f, second);
}

}  // namespace jpmap
