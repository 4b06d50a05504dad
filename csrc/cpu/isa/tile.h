// The product of a few rows with one panel of a packed matrix, for one instruction set.
//
// A panel holds kPanel = 128 / sizeof(T) output columns, depth-major: panel[k][column]. Every
// element of a product is one chain of multiply-adds over ascending k, whatever rows share the
// register tile: a row's bits depend neither on its neighbours nor on their number.
//
// Included only by the files of this folder, each compiled for an instruction set of its own. No
// standard templates here: the linker would keep one copy of them, possibly the wrong one.
#pragma once

#include "cpu/isa/kernels.h"

namespace jpmap {
namespace JPMAP_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 12;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTileRows = 3;
#else
constexpr int kVectorBytes = 16, kTileRows = 1;
#endif
constexpr int kVectors = static_cast<int>(kPanelBytes) / kVectorBytes;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
constexpr int64_t kPanel = kPanelBytes / static_cast<int64_t>(sizeof(T));

// out[rows][kPanel] = x[rows][depth] panel[depth][kPanel]
template <class T, int kRows>
static inline __attribute__((always_inline)) void tile(const T* x, int64_t x_stride, const T* panel,
                                                       int64_t depth, T* out, int64_t out_stride) {
  using V = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  V sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const V* columns = reinterpret_cast<const V*>(panel + k * kPanel<T>);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const T factor = x[row * x_stride + k];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[row][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      *reinterpret_cast<V*>(out + row * out_stride + v * kWidth) = sum[row][v];
    }
  }
}

template <class T, int kRows>
static inline void remaining_rows(const T* x, int64_t x_stride, const T* panel, int64_t depth,
                                  int64_t rows, T* out, int64_t out_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<T, kRows>(x, x_stride, panel, depth, out, out_stride);
    } else {
      remaining_rows<T, kRows - 1>(x, x_stride, panel, depth, rows, out, out_stride);
    }
  }
}

// The same for any number of rows.
template <class T>
static void multiply_panel(const T* x, int64_t x_stride, const T* panel, int64_t depth,
                           int64_t rows, T* out, int64_t out_stride) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) {
    tile<T, kTileRows>(x + row * x_stride, x_stride, panel, depth, out + row * out_stride,
                       out_stride);
  }
  remaining_rows<T, kTileRows - 1>(x + row * x_stride, x_stride, panel, depth, rows - row,
                                   out + row * out_stride, out_stride);
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
