// Products of a tile's rows with a weight matrix in float32 accuracy, on the matrix units.
//
// A number is two of float16: x 2^e = high + low, to 2^-22 of x, and so are the weights; the
// product of the low parts is left out. e belongs to a row and brings its largest number to [2^13,
// 2^14), so that low parts are no subnormals but of numbers below 2^-16 of the largest: there the
// error is 2^-38 of the largest. Rows are split where they are made, by one warp each; the
// products, which every warp reads them for, then convert nothing.
#pragma once

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_network.cuh"

namespace jpmap {

// 2^e that brings `largest` >= 0 to [2^13, 2^14), at most 2^100; finite for what is not.
__device__ inline float row_scale(float largest) {
  return __uint_as_float(min(267u - (__float_as_uint(largest) >> 23), 227u) << 23);
}

// One warp: splits a row of `width` floats in shared memory in its place, in blocks of 32 numbers:
// first their high parts, then their low ones. `largest` is that of what the lane has seen. Returns
// 2^-e.
__device__ __forceinline__ float split_row(float* row, int width, float largest) {
  const int lane = this_lane();
  const float scale =
      row_scale(__uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(largest))));
  __syncwarp();  // the other lanes' numbers are there
  const int blocks = width / 32, mine = lane / 16, at = 2 * (lane % 16);
  for (int begin = 0; begin < blocks; begin += 8) {
    float2 x[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int block = begin + 2 * i + mine;
      if (block < blocks) x[i] = *reinterpret_cast<const float2*>(row + 32 * block + at);
    }
    __syncwarp();  // the blocks are read
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int block = begin + 2 * i + mine;
      if (block >= blocks) break;
      const float2 v = make_float2(x[i].x * scale, x[i].y * scale);
      const __half2 high = __floats2half2_rn(v.x, v.y);
      const float2 rounded = __half22float2(high);
      __half2* to = reinterpret_cast<__half2*>(row + 32 * block) + at / 2;
      to[0] = high;
      to[16] = __floats2half2_rn(v.x - rounded.x, v.y - rounded.y);
    }
  }
  return __frcp_rn(scale);
}

// What a product is of: y [rows][columns] = x w^T, or += it, of split rows x [rows][depth], with
// 2^-e of each in `factors`, and split weights w [columns][depth], whose scale `unscale` undoes. A
// row of w is one of eight columns, of which the product may take a part of the depth.
struct SplitProduct {
  const float *x, *factors;  // shared
  float* y;                  // shared
  const __half* w;
  float unscale;
  int x_stride, y_stride, w_stride, depth, rows;
  bool adds;
};

// One warp: kWide tiles of eight columns from `begin` of 16 kTiles rows. The matrix unit rounds its
// running sum towards zero, so that it is emptied into rounded sums every 64 inputs.
template <int kTiles, int kWide>
__device__ __forceinline__ void split_columns(const SplitProduct& of, int begin, int end) {
  const int lane = this_lane(), steps = of.depth / 32;
  const __half* row[kWide];
#pragma unroll
  for (int n = 0; n < kWide; ++n) {
    row[n] = of.w + static_cast<int64_t>(min(begin + n, end - 1)) * of.w_stride + 8 * lane;
  }
  uint32_t x[kTiles];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    x[m] = fragment_address(reinterpret_cast<const __half*>(of.x), 2 * of.x_stride, m);
  }
  // Steps of 32 inputs that weights are on their way: fewer, and every step would wait for them.
  constexpr int kAhead = 3, kCycle = 2 * kAhead, kHigh = 0, kLow = 1;
  uint4 coming[kAhead][2][kWide] = {};
  const auto fetch = [&](uint4(&into)[2][kWide], int q) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int n = 0; n < kWide; ++n) into[part][n] = read_once(row[n] + 512 * q + 256 * part);
    }
  };
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    if (a < steps) fetch(coming[a], a);
  }
  float sum[kTiles][kWide][4] = {}, part[kTiles][kWide][4] = {};
  const auto empty = [&] {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kWide; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum[m][n][e] += part[m][n][e];
          part[m][n][e] = 0.0f;
        }
      }
    }
  };
  for (int cycle = 0; cycle < steps; cycle += kCycle) {
#pragma unroll
    for (int i = 0; i < kCycle; ++i) {
      const int q = cycle + i;
      if (q >= steps) break;
      if (i % 2 == 0) empty();
      const uint4(&b)[2][kWide] = coming[i % kAhead];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[2][kTiles][4];
#pragma unroll
        for (int of_x = 0; of_x < 2; ++of_x) {
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            load_fragment(a[of_x][m], x[m] + 2 * (64 * q + 32 * of_x + 16 * half));
          }
        }
        // The small products first, each element's sum always in the same order.
        constexpr int kFactors[3][2] = {{kLow, kHigh}, {kHigh, kLow}, {kHigh, kHigh}};
#pragma unroll
        for (int f = 0; f < 3; ++f) {
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
#pragma unroll
            for (int n = 0; n < kWide; ++n) {
              mma_half(part[m][n], a[kFactors[f][0]][m], b[kFactors[f][1]][n], half);
            }
          }
        }
      }
      if (q + kAhead < steps) fetch(coming[i % kAhead], q + kAhead);
    }
  }
  empty();
  finish_columns<kTiles, kWide>(
      sum, begin, end, [&](int row, int) { return of.factors[min(row, of.rows - 1)] * of.unscale; },
      [&](int row, int column, float v0, float v1, float by) {
        if (row >= of.rows) return;
        float2& y = *reinterpret_cast<float2*>(of.y + row * of.y_stride + column);
        const float2 before = of.adds ? y : make_float2(0, 0);
        y = make_float2(fmaf(v0, by, before.x), fmaf(v1, by, before.y));
      });
}

// What undoes the scale of a layer's split weights.
template <class Layer>
__device__ inline float unscale_of(const Layer& layer) {
  return __frcp_rn(*layer.scale) * (1.0f / kSplitScale);
}

// One block: all columns of a product of up to 32 rows.
__device__ __forceinline__ void split_product(const SplitProduct& of, int columns) {
  share_columns(0, columns / 8, [&](auto width, int begin, int end) {
    if (of.rows <= 16) {
      split_columns<1, decltype(width)::value>(of, begin, end);
    } else {
      split_columns<2, decltype(width)::value>(of, begin, end);
    }
  });
}

}  // namespace jpmap
