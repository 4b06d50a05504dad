// sum_n w_n v_n and sum_n w_n v_n^2 of weighted rows of each image, in double: one pass over them.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "arguments.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

// Columns that are summed together: their sums stay in a core's nearest cache.
constexpr int64_t kColumns = 1024;

// Rows are taken one after the other: an element is one chain of sums, whoever owns its columns. A
// row without weight has no part, whatever stands in it.
template <class T>
JPMAP_INLINE void any_columns(const T* __restrict__ values, const double* weights, int64_t rows,
                              int64_t stride, int64_t columns, double* __restrict__ first,
                              double* __restrict__ second) {
  for (int64_t row = 0; row < rows; ++row) {
    const double w = weights[row];
    if (w == 0) continue;
    const T* v = values + row * stride;
    for (int64_t j = 0; j < columns; ++j) {
      const double value = v[j], heavy = w * value;
      first[j] += heavy;
      second[j] += heavy * value;
    }
  }
}

JPMAP_CLONES void add_columns(const float* values, const double* weights, int64_t rows,
                              int64_t stride, int64_t columns, double* first, double* second) {
  any_columns(values, weights, rows, stride, columns, first, second);
}

JPMAP_CLONES void add_columns(const double* values, const double* weights, int64_t rows,
                              int64_t stride, int64_t columns, double* first, double* second) {
  any_columns(values, weights, rows, stride, columns, first, second);
}

Tensor weighted_moments(Tensor values, Tensor weights) {
  const auto [batch, rows, size] = check_weighted("weighted_moments", values, weights);
  Tensor out =
      torch::stable::new_empty(values, {batch, 2, size}, torch::headeronly::ScalarType::Double);
  double* const sums = write<double>(out);
  std::fill_n(sums, batch * 2 * size, 0.0);
  dispatch_floating("weighted_moments", values, [&](auto zero) {
    using T = decltype(zero);
    const int64_t pieces = (size + kColumns - 1) / kColumns;
    for_each_item(batch * pieces, rows * std::min(size, kColumns), [&](int64_t item) {
      const int64_t b = item / pieces, begin = item % pieces * kColumns;
      double* const first = sums + 2 * b * size + begin;
      add_columns(read<T>(values) + b * rows * size + begin, read<double>(weights) + b * rows, rows,
                  size, std::min(kColumns, size - begin), first, first + size);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("weighted_moments", TORCH_BOX(&weighted_moments));
}

}  // namespace jpmap
