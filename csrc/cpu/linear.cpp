// f(rows times a packed matrix, plus a bias): a layer whose rows do not depend on their number.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "arguments.h"
#include "cpu/isa/kernels.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

constexpr int64_t kRowBlock = 96;
constexpr int64_t kMaxPanel = kPanelBytes / static_cast<int64_t>(sizeof(float));

// One task: a block of rows and one panel.
template <class T>
void multiply(const LinearSizes& sizes, const T* x, const T* packed, const T* bias,
              Activation activation, T* out) {
  const auto& kernels = isa_kernels<T>();
  const int64_t width = kPanelBytes / static_cast<int64_t>(sizeof(T));
  const int64_t panels = (sizes.outputs + width - 1) / width;
  const int64_t blocks = (sizes.rows + kRowBlock - 1) / kRowBlock;
  const int64_t work = std::min(sizes.rows, kRowBlock) * sizes.inputs * width / 16;
  for_each_item(panels * blocks, work, [&](int64_t item) {
    const int64_t panel = item / blocks, first = item % blocks * kRowBlock;
    const int64_t rows = std::min(kRowBlock, sizes.rows - first), column = panel * width;
    const int64_t columns = std::min(width, sizes.outputs - column);
    T block[kRowBlock * kMaxPanel], shift[kMaxPanel] = {};
    if (bias != nullptr) std::copy_n(bias + column, columns, shift);
    kernels.multiply_panels(x + first * sizes.inputs, sizes.inputs,
                            packed + panel * sizes.inputs * width, sizes.inputs, rows, 1, block,
                            width);
    kernels.activate_panel(activation, shift, block, rows, width);
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(block + row * width, columns, out + (first + row) * sizes.outputs + column);
    }
  });
}

Tensor linear(Tensor x, Tensor packed, std::optional<Tensor> bias, int64_t outputs,
              int64_t activation) {
  const auto sizes = check_linear(x, packed, bias, outputs);
  check_activation("linear", activation);
  Tensor out = torch::stable::new_empty(x, {sizes.rows, outputs});
  dispatch_floating("linear", x, [&](auto zero) {
    using T = decltype(zero);
    multiply<T>(sizes, read<T>(x), read<T>(packed), bias.has_value() ? read<T>(*bias) : nullptr,
                static_cast<Activation>(activation), write<T>(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) { m.impl("linear", TORCH_BOX(&linear)); }

}  // namespace jpmap
