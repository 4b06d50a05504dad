// What the CPU kernels of the fused MLP operators make of their arguments.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "cpu/isa/kernels.h"

namespace jpmap {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

struct Network {
  const Tensors& packed;        // per layer [panels, in, w]
  const Tensors& adjoints;      // per layer [panels, out, w]
  const Tensors& tangents;      // in bfloat16, or of no meaning: see check_mlp_panels
  const Tensors& biases;        // per layer [panels w]
  const Integers& activations;  // per layer
};

template <class T>
Mlp<T> mlp_of(const Network& network, int64_t latent, int64_t outputs) {
  Mlp<T> mlp{};
  mlp.count = static_cast<int>(network.packed.size());
  mlp.latent = latent;
  mlp.outputs = outputs;
  for (int l = 0; l < mlp.count; ++l) {
    mlp.layers[l] = {read<T>(network.packed[l]),
                     read<T>(network.adjoints[l]),
                     read<T>(network.biases[l]),
                     network.packed[l].size(1),
                     network.adjoints[l].size(1),
                     network.biases[l].size(0),
                     static_cast<Activation>(network.activations[l])};
  }
  if (bfloat16_curvature<T>() != nullptr && has_bfloat16(network.tangents)) {
    for (int l = 1; l < mlp.count; ++l) {
      mlp.layers[l].tangents = read<BFloat16>(network.tangents[l - 1]);
    }
  }
  return mlp;
}

// After mlp_forward: gradients and matrices of the images `which` of a tile, see cpu/isa/mlp.h and
// cpu/isa/curvature.h. An error in a matrix costs a step at most, so its tangents pass in bfloat16
// where there are such weights.
template <class T>
void mlp_system(const Mlp<T>& mlp, const int64_t* which, int64_t images, bool second_order,
                MlpTile<T>& tile, double* const* gradient, double* const* matrix,
                double* const* hessian) {
  const auto& kernels = isa_kernels<T>();
  const bool narrow = mlp.count > 1 && mlp.layers[1].tangents != nullptr;
  const auto curvature = narrow ? bfloat16_curvature<T>() : kernels.mlp_curvature;
  kernels.mlp_backward(mlp, which, images, tile, gradient);
  curvature(mlp, which, images, second_order, tile, matrix, hessian);
}

template <class T>
MlpTarget<T> target_of(const MlpMeasurement& m, int64_t image, int64_t outputs) {
  const int64_t columns = m.weight.size(1);
  const T* scale = m.scale ? read<T>(*m.scale) : nullptr;
  if (scale != nullptr && m.scale->dim() == 2) scale += image * outputs;
  return {read<T>(m.target) + image * outputs,
          read<T>(m.weight) + image * columns,
          scale,
          m.law ? read<T>(*m.law) + image * kLawNumbers : nullptr,
          columns == 1,
          m.constant ? read<double>(*m.constant)[image] : 0.0};
}

inline int64_t worker_count() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

// body() on every thread of torch's pool, at most `tasks` of them.
template <class F>
void on_every_worker(int64_t tasks, const F& body) {
  torch::stable::parallel_for(0, std::min(worker_count(), tasks), 1,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t worker = begin; worker < end; ++worker) body();
                              });
}

}  // namespace jpmap
