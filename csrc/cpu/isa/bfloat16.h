// Tangents in bfloat16, for processors with products of pairs of them.
//
// vdpbf16ps adds the products of a pair to a float32 sum, and rounds to nearest after each of the
// two. It takes numbers below 2^-126 for 0, and returns 0 for them, whatever the thread has set:
// bfloat16 has float32's range, so no scale is needed, but what float32 alone has further down is
// lost. An element is one chain over ascending pairs of inputs, as in cpu/isa/tile.h.
#pragma once

#include <immintrin.h>

#include "cpu/isa/tile.h"
#include "mlp_network.h"

namespace jpmap {
namespace JPMAP_ISA {

static inline __attribute__((always_inline)) __m512bh pair_of(const BFloat16* row) {
  int pair;
  __builtin_memcpy(&pair, row, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// out[rows][kPanel] = x[rows][2 pairs] panel[pairs][kPanel][2]
template <int kRows>
static inline __attribute__((always_inline)) void pair_tile(const BFloat16* x, int64_t x_stride,
                                                            const BFloat16* panel, int64_t pairs,
                                                            float* out) {
  static_assert(kVectors == 2);
  __m512 sum[kRows][kVectors] = {};
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const auto columns = [&](int v) {
      const void* from = panel + (pair * kVectors + v) * kPanel<float>;
      return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
    };
    const __m512bh left = columns(0), right = columns(1);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const __m512bh factor = pair_of(x + row * x_stride + 2 * pair);
      sum[row][0] = _mm512_dpbf16_ps(sum[row][0], factor, left);
      sum[row][1] = _mm512_dpbf16_ps(sum[row][1], factor, right);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    _mm512_storeu_ps(out + row * kPanel<float>, sum[row][0]);
    _mm512_storeu_ps(out + row * kPanel<float> + 16, sum[row][1]);
  }
}

template <int kRows>
static inline void remaining_pair_rows(const BFloat16* x, int64_t x_stride, const BFloat16* panel,
                                       int64_t pairs, int64_t rows, float* out) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      pair_tile<kRows>(x, x_stride, panel, pairs, out);
    } else {
      remaining_pair_rows<kRows - 1>(x, x_stride, panel, pairs, rows, out);
    }
  }
}

// See Tangents of cpu/isa/curvature.h.
template <class T>
struct PairTangents {
  using Stored = BFloat16;

  static void multiply(const MlpLayer<T>& layer, int64_t column, const Stored* input,
                       int64_t input_stride, int64_t rows, T* out) {
    const int64_t pairs = (layer.inputs + 1) / 2;
    const BFloat16* panel = layer.tangents + column * 2 * pairs;
    int64_t row = 0;
    for (; row + kTileRows <= rows; row += kTileRows) {
      pair_tile<kTileRows>(input + row * input_stride, input_stride, panel, pairs,
                           out + row * kPanel<T>);
    }
    remaining_pair_rows<kTileRows - 1>(input + row * input_stride, input_stride, panel, pairs,
                                       rows - row, out + row * kPanel<T>);
  }

  static void store(const T* values, Stored* to) {  // [kPanel]
    const __m512 left = _mm512_loadu_ps(values), right = _mm512_loadu_ps(values + 16);
    _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(right, left)));
  }
};

}  // namespace JPMAP_ISA
}  // namespace jpmap
