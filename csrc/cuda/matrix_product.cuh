// Products of the few rows of a tile with a weight matrix, on the matrix units.
//
// Rows lie in shared memory, the matrix [columns][depth] streams from the L2 cache through
// registers. Which input a fragment's element belongs to is free as long as both factors agree, so
// that every lane reads 16 consecutive bytes of both: no shuffles, no packing. Every element of a
// result is one chain of sums over ascending depth, whatever rows and columns share a call.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "mlp_layout.h"

namespace jpmap {

constexpr int kMlpThreads = 256, kMlpWarps = kMlpThreads / 32;

// threadIdx.x, read anew. In a kernel whose one long loop is a chain of phases the compiler would
// otherwise keep what every phase makes of it, in registers that the phases need.
__device__ __forceinline__ int this_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

__device__ __forceinline__ int this_lane() { return this_thread() % 32; }
__device__ __forceinline__ int this_warp() { return this_thread() / 32; }

// Strides of rows in shared memory for which the eight rows a load touches lie in other banks.
__device__ inline int float_row(int depth) { return depth + kFloatPad; }
__device__ inline int split_stride(int depth) { return depth + kSplitPad; }
__device__ inline int half_row(int depth) { return depth + kHalfPad; }

// c [16][8] += a [16][8] b [8][8]
__device__ inline void mma_tf32(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c [16][8] += a [16][16] b [16][8]
__device__ inline void mma_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with a half of what a lane holds of 32 inputs of b.
__device__ inline void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint4& b, int half) {
  mma_half(c, a, half == 0 ? b.x : b.z, half == 0 ? b.y : b.w);
}

// Where a lane reads from for `load_fragment`: of sixteen rows in shared memory from 16 m on.
__device__ inline uint32_t fragment_address(const __half* rows, int stride, int m) {
  const int lane = this_lane();
  return static_cast<uint32_t>(
      __cvta_generic_to_shared(rows + (16 * m + lane % 16) * stride + 8 * (lane / 16)));
}

// a [16][16] of sixteen rows.
__device__ inline void load_fragment(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// The matrix unit reads the upper 19 bits of a tf32 operand: half a unit more rounds to nearest.
// The largest NaNs become zeros by that: a NaN is kept by the other factor and by f itself, which
// ends the image's solve.
__device__ inline uint32_t nearest_tf32(float x) { return __float_as_uint(x) + 0x1000u; }

// The nearest tf32, of which a NaN stays one: where nothing else keeps it.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ inline void to_tf32(float4 x, uint32_t (&into)[4]) {
  into[0] = to_tf32(x.x);
  into[1] = to_tf32(x.y);
  into[2] = to_tf32(x.z);
  into[3] = to_tf32(x.w);
}

// Weights, of which nothing is read again soon: the first-level cache is left to what is.
__device__ inline uint4 read_once(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

__device__ inline float4 as_floats(uint4 v) {
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                     __uint_as_float(v.w));
}

// Hands the tiles on in pairs of neighbouring columns. What `prepare` reads for sixteen rows is on
// its way before `finish` writes the first of their results.
template <int kTiles, int kWide, class Prepare, class Finish>
__device__ __forceinline__ void finish_columns(const float (&sum)[kTiles][kWide][4], int begin,
                                               int end, const Prepare& prepare,
                                               const Finish& finish) {
  const int lane = this_lane(), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    decltype(prepare(0, 0)) ready[kWide][2];
#pragma unroll
    for (int n = 0; n < kWide; ++n) {
      const int column = 8 * min(begin + n, end - 1) + 2 * t;
      ready[n][0] = prepare(16 * m + g, column);
      ready[n][1] = prepare(16 * m + g + 8, column);
    }
#pragma unroll
    for (int n = 0; n < kWide; ++n) {
      if (begin + n >= end) break;
      const int column = 8 * (begin + n) + 2 * t;
      finish(16 * m + g, column, sum[m][n][0], sum[m][n][1], ready[n][0]);
      finish(16 * m + g + 8, column, sum[m][n][2], sum[m][n][3], ready[n][1]);
    }
  }
}

// One warp: kWide tiles of eight columns from `begin`, of x [16 kTiles][depth], both factors
// rounded to tf32. The matrix unit rounds its running sum towards zero, so that it is emptied into
// rounded sums every 64 inputs.
template <int kTiles, int kWide, class Prepare, class Finish>
__device__ void tf32_columns(const float* x, int x_stride, const float* w, int depth, int begin,
                             int end, const Prepare& prepare, const Finish& finish) {
  const int lane = this_lane(), g = lane / 4, t = lane % 4;
  const float* row[kWide];
#pragma unroll
  for (int n = 0; n < kWide; ++n) {
    row[n] = w + static_cast<int64_t>(8 * min(begin + n, end - 1) + g) * depth + 4 * t;
  }
  constexpr int kAhead = 2;
  uint4 coming[kAhead][kWide];
  const int steps = depth / 16;
  const auto fetch = [&](uint4(&into)[kWide], int q) {
#pragma unroll
    for (int n = 0; n < kWide; ++n) into[n] = read_once(row[n] + 16 * q);
  };
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    if (a < steps) fetch(coming[a], a);
  }
  float sum[kTiles][kWide][4] = {};
  for (int chunk = 0; chunk < steps; chunk += 4) {
    float part[kTiles][kWide][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int q = chunk + i;
      if (q >= steps) break;
      uint32_t b[kWide][4];
#pragma unroll
      for (int n = 0; n < kWide; ++n) to_tf32(as_floats(coming[i % kAhead][n]), b[n]);
      if (q + kAhead < steps) fetch(coming[i % kAhead], q + kAhead);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        uint32_t top[4], low[4];
        const float* at = x + (16 * m + g) * x_stride + 16 * q + 4 * t;
        to_tf32(*reinterpret_cast<const float4*>(at), top);
        to_tf32(*reinterpret_cast<const float4*>(at + 8 * x_stride), low);
#pragma unroll
        for (int s = 0; s < 4; s += 2) {
#pragma unroll
          for (int n = 0; n < kWide; ++n) {
            mma_tf32(part[m][n], top[s], low[s], top[s + 1], low[s + 1], b[n][s], b[n][s + 1]);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kWide; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[m][n][e] += part[m][n][e];
      }
    }
  }
  finish_columns<kTiles, kWide>(sum, begin, end, prepare, finish);
}

// One warp: kWide tiles of eight columns of x [16 kTiles][depth], float16 factors, float32 sums; w
// has the high parts of split rows.
template <int kTiles, int kWide, class Prepare, class Finish>
__device__ void half_columns(const __half* x, int x_stride, const __half* w, int depth, int begin,
                             int end, const Prepare& prepare, const Finish& finish) {
  const int lane = this_lane();
  const __half* row[kWide];
#pragma unroll
  for (int n = 0; n < kWide; ++n) {
    row[n] = w + static_cast<int64_t>(min(begin + n, end - 1)) * (16 * depth) + 8 * lane;
  }
  uint32_t at[kTiles];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) at[m] = fragment_address(x, x_stride, m);
  // Steps of 32 inputs that weights are on their way: fewer, and every step would wait for them.
  constexpr int kAhead = 4;
  uint4 coming[kAhead][kWide] = {};
  const int steps = depth / 32;
  const auto fetch = [&](uint4(&into)[kWide], int q) {
#pragma unroll
    for (int n = 0; n < kWide; ++n) into[n] = read_once(row[n] + 512 * q);
  };
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    if (a < steps) fetch(coming[a], a);
  }
  float sum[kTiles][kWide][4] = {};
  for (int cycle = 0; cycle < steps; cycle += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int q = cycle + i;
      if (q >= steps) break;
      const uint4(&b)[kWide] = coming[i];
      uint32_t a[2][kTiles][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          load_fragment(a[half][m], at[m] + 2 * (32 * q + 16 * half));
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int n = 0; n < kWide; ++n) mma_half(sum[m][n], a[half][m], b[n], half);
        }
      }
      if (q + kAhead < steps) fetch(coming[i], q + kAhead);
    }
  }
  finish_columns<kTiles, kWide>(sum, begin, end, prepare, finish);
}

// Shares column tiles [begin, end) among the warps: body(width, first, end), width at most four and
// a compile-time constant.
template <class Body>
__device__ void share_columns(int begin, int end, const Body& body) {
  const int each = (end - begin + kMlpWarps - 1) / kMlpWarps, warp = this_warp();
  const auto run = [&](auto width) {
    for (int at = begin + warp * width.value; at < end; at += kMlpWarps * width.value) {
      body(width, at, end);
    }
  };
  if (each >= 4) {
    run(std::integral_constant<int, 4>{});
  } else if (each == 3) {
    run(std::integral_constant<int, 3>{});
  } else if (each == 2) {
    run(std::integral_constant<int, 2>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

// One block: x [rows][depth], rows <= 32, times w [columns][depth]^T, with finish(row, column,
// value, value of column + 1, prepare(row, column)) for each two neighbours, also of the rows that
// fill the last tile up.
template <class Prepare, class Finish>
__device__ void tf32_product(const float* x, int x_stride, const float* w, int depth, int columns,
                             int rows, const Prepare& prepare, const Finish& finish) {
  share_columns(0, columns / 8, [&](auto width, int begin, int end) {
    if (rows <= 16) {
      tf32_columns<1, decltype(width)::value>(x, x_stride, w, depth, begin, end, prepare, finish);
    } else {
      tf32_columns<2, decltype(width)::value>(x, x_stride, w, depth, begin, end, prepare, finish);
    }
  });
}

// The same in float16 for rows <= 64 and columns [begin, end): 16, 32 or 64 rows are computed,
// whatever those beyond hold.
template <class Prepare, class Finish>
__device__ void half_product(const __half* x, int x_stride, const __half* w, int depth, int begin,
                             int end, int rows, const Prepare& prepare, const Finish& finish) {
  share_columns(begin / 8, end / 8, [&](auto width, int first, int last) {
    if (rows <= 16) {
      half_columns<1, decltype(width)::value>(x, x_stride, w, depth, first, last, prepare, finish);
    } else if (rows <= 32) {
      half_columns<2, decltype(width)::value>(x, x_stride, w, depth, first, last, prepare, finish);
    } else {
      half_columns<4, decltype(width)::value>(x, x_stride, w, depth, first, last, prepare, finish);
    }
  });
}

}  // namespace jpmap
