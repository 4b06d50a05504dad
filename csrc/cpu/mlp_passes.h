// Rows through the layers of a network, every row with the bits that `linear` gives it.
#pragma once

#include <vector>

#include "cpu/mlp_arguments.h"

namespace jpmap {

// out[rows][columns] = x[rows][depth] times a packed matrix of `columns` outputs, padded to panels.
template <class T>
void multiply_rows(const T* x, int64_t x_stride, const T* packed, int64_t depth, int64_t rows,
                   T* out, int64_t columns) {
  constexpr int64_t width = kPanelBytes / static_cast<int64_t>(sizeof(T));
  isa_kernels<T>().multiply_panels(x, x_stride, packed, depth, rows, columns / width, out, columns);
}

// The layers of a network without a way back.
template <class T>
Mlp<T> forward_of(const Tensors& packed, const Tensors& biases, const Integers& activations) {
  Mlp<T> mlp{};
  mlp.count = static_cast<int>(packed.size());
  for (int l = 0; l < mlp.count; ++l) {
    const int64_t stride = biases[l].size(0);
    mlp.layers[l] = {read<T>(packed[l]),
                     nullptr,
                     read<T>(biases[l]),
                     packed[l].size(1),
                     stride,
                     stride,
                     static_cast<Activation>(activations[l])};
  }
  return mlp;
}

// Where rows stand between two layers.
template <class T>
class Passes {
 public:
  // x [rows][x_stride] through all layers: [rows][stride of the last], until the next call.
  const T* run(const Mlp<T>& mlp, const T* x, int64_t x_stride, int64_t rows) {
    const auto& kernels = isa_kernels<T>();
    constexpr int64_t width = kPanelBytes / static_cast<int64_t>(sizeof(T));
    for (int l = 0; l < mlp.count; ++l) {
      const MlpLayer<T>& layer = mlp.layers[l];
      std::vector<T>& out = room_[l % 2];
      if (static_cast<int64_t>(out.size()) < rows * layer.stride) out.resize(rows * layer.stride);
      multiply_rows(x, x_stride, layer.packed, layer.inputs, rows, out.data(), layer.stride);
      for (int64_t column = 0; column < layer.stride; column += width) {
        kernels.activate_panel(layer.activation, layer.bias + column, out.data() + column, rows,
                               layer.stride);
      }
      x = out.data();
      x_stride = layer.stride;
    }
    return x;
  }

 private:
  std::vector<T> room_[2];
};

}  // namespace jpmap
