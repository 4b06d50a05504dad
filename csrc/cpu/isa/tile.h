// The product of a few rows with one panel of a packed matrix, for one instruction set.
//
// A panel holds kPanel = 128 / sizeof(T) output columns, depth-major: panel[k][column]. Every
// element of a product is one chain of multiply-adds over ascending k, whatever rows share the
// register tile and whatever panels pass beside its own: a row's bits depend neither on its
// neighbours nor on their number.
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
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 3;  // NEON, with 32 registers
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

// out[rows][kTogether kPanel] = x[rows][depth] panels[kTogether][depth][kPanel]
template <class T, int kRows, int kTogether>
static inline __attribute__((always_inline)) void tile(const T* x, int64_t x_stride,
                                                       const T* panels, int64_t depth, T* out,
                                                       int64_t out_stride) {
  using V = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  V sum[kRows][kTogether][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 8
    for (int panel = 0; panel < kTogether; ++panel) {
      const V* columns = reinterpret_cast<const V*>(panels + (panel * depth + k) * kPanel<T>);
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        const T factor = x[row * x_stride + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[row][panel][v] += factor * columns[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int panel = 0; panel < kTogether; ++panel) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        *reinterpret_cast<V*>(out + row * out_stride + panel * kPanel<T> + v * kWidth) =
            sum[row][panel][v];
      }
    }
  }
}

template <class T, int kRows, int kTogether>
static inline void remaining_rows(const T* x, int64_t x_stride, const T* panels, int64_t depth,
                                  int64_t rows, T* out, int64_t out_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<T, kRows, kTogether>(x, x_stride, panels, depth, out, out_stride);
    } else {
      remaining_rows<T, kRows - 1, kTogether>(x, x_stride, panels, depth, rows, out, out_stride);
    }
  }
}

// The same for one panel and any number of rows.
template <class T>
static void multiply_panel(const T* x, int64_t x_stride, const T* panel, int64_t depth,
                           int64_t rows, T* out, int64_t out_stride) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) {
    tile<T, kTileRows, 1>(x + row * x_stride, x_stride, panel, depth, out + row * out_stride,
                          out_stride);
  }
  remaining_rows<T, kTileRows - 1, 1>(x + row * x_stride, x_stride, panel, depth, rows - row,
                                      out + row * out_stride, out_stride);
}

// Chains of multiply-adds that keep the units busy, each waiting for its last sum. A few rows have
// that many only where they pass several panels together.
constexpr int kChains = 8;
constexpr int kTogether = kChains / kVectors;
constexpr int kFewRows = kTileRows * kVectors / kChains;

// The same for any number of panels.
template <class T>
static void multiply_panels(const T* x, int64_t x_stride, const T* packed, int64_t depth,
                            int64_t rows, int64_t panels, T* out, int64_t out_stride) {
  int64_t panel = 0;
  if constexpr (kTogether > 1) {
    for (; rows <= kFewRows && panel + kTogether <= panels; panel += kTogether) {
      remaining_rows<T, kFewRows, kTogether>(x, x_stride, packed + panel * depth * kPanel<T>, depth,
                                             rows, out + panel * kPanel<T>, out_stride);
    }
  }
  for (; panel < panels; ++panel) {
    multiply_panel(x, x_stride, packed + panel * depth * kPanel<T>, depth, rows,
                   out + panel * kPanel<T>, out_stride);
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
