// sum_n w_n v_n and sum_n w_n v_n^2 of weighted rows of each image, in double: one pass over them.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace jpmap {
namespace {

constexpr int kColumns = 128;  // threads of a block, a column each

// Rows are taken one after the other: an element is one chain of sums. A row without weight has no
// part, whatever stands in it.
template <class T>
__global__ void __launch_bounds__(kColumns)
    weighted_moments_kernel(const T* __restrict__ values, const double* __restrict__ weights,
                            double* __restrict__ out, int rows, int64_t size, int64_t pieces) {
  const int64_t image = blockIdx.x / pieces;
  const int64_t column = blockIdx.x % pieces * kColumns + threadIdx.x;
  if (column >= size) return;
  const T* v = values + image * rows * size + column;
  const double* w = weights + image * rows;
  double first = 0, second = 0;
#pragma unroll 8
  for (int row = 0; row < rows; ++row) {
    const double weight = w[row], value = static_cast<double>(v[row * size]);
    if (weight == 0) continue;
    const double heavy = weight * value;
    first += heavy;
    second += heavy * value;
  }
  out[2 * image * size + column] = first;
  out[(2 * image + 1) * size + column] = second;
}

Tensor weighted_moments(Tensor values, Tensor weights) {
  const char* op = "weighted_moments";
  const auto [batch, rows, size] = check_weighted(op, values, weights);
  const torch::stable::accelerator::DeviceGuard guard(values.get_device());
  Tensor out =
      torch::stable::new_empty(values, {batch, 2, size}, torch::headeronly::ScalarType::Double);
  const int64_t pieces = (size + kColumns - 1) / kColumns, blocks = batch * pieces;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), op, ": too many images");
  if (blocks == 0) return out;
  dispatch_floating(op, values, [&, rows = rows, size = size](auto zero) {
    using T = decltype(zero);
    weighted_moments_kernel<<<static_cast<unsigned>(blocks), kColumns, 0, current_stream(values)>>>(
        read<T>(values), read<double>(weights), write<double>(out), static_cast<int>(rows), size,
        pieces);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("weighted_moments", TORCH_BOX(&weighted_moments));
}

}  // namespace jpmap
