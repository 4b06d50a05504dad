// Argument checks and result allocation that the CPU and the CUDA version of an operator share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "check.h"
#include "mlp_network.h"

namespace jpmap {

struct XUpdateSizes {
  int64_t batch, pixels, latent;
  bool weight_per_image;
};

inline XUpdateSizes check_x_update(const Tensor& decoded,                // [B, n]
                                   const Tensor& y,                      // [B, n]
                                   const std::optional<Tensor>& weight,  // [n] or [B, n]
                                   const Tensor& z,                      // [B, k]
                                   const Tensor& beta,                   // [B]
                                   const Tensor& sigma) {                // [B]
  constexpr const char* op = "x_update_diagonal";
  STD_TORCH_CHECK(decoded.dim() == 2 && z.dim() == 2, op, ": expected decoded [B, n], z [B, k]");
  const int64_t batch = decoded.size(0), pixels = decoded.size(1), latent = z.size(1);
  check_shape(op, "decoded", decoded, {batch, pixels});
  check(op, "y", y, decoded, {batch, pixels});
  check(op, "z", z, decoded, {batch, latent});
  check(op, "beta", beta, decoded, {batch});
  check(op, "sigma", sigma, decoded, {batch});
  bool per_image = false;
  if (weight.has_value()) {
    per_image = weight->dim() == 2;
    if (per_image) {
      check(op, "weight", *weight, decoded, {batch, pixels});
    } else {
      check(op, "weight", *weight, decoded, {pixels});
    }
  }
  return {batch, pixels, latent, per_image};
}

struct ObjectiveSizes {
  int64_t batch, pixels, measurements, latent;
};

inline ObjectiveSizes check_objective(const Tensor& x,         // [B, n]
                                      const Tensor& decoded,   // [B, n]
                                      const Tensor& residual,  // [B, m]
                                      const Tensor& z,         // [B, k]
                                      const Tensor& beta,      // [B]
                                      const Tensor& sigma) {   // [B]
  constexpr const char* op = "objective";
  STD_TORCH_CHECK(x.dim() == 2 && residual.dim() == 2 && z.dim() == 2, op,
                  ": expected x [B, n], residual [B, m], z [B, k]");
  const ObjectiveSizes sizes{x.size(0), x.size(1), residual.size(1), z.size(1)};
  check_shape(op, "x", x, {sizes.batch, sizes.pixels});
  check(op, "decoded", decoded, x, {sizes.batch, sizes.pixels});
  check(op, "residual", residual, x, {sizes.batch, sizes.measurements});
  check(op, "z", z, x, {sizes.batch, sizes.latent});
  check(op, "beta", beta, x, {sizes.batch});
  check(op, "sigma", sigma, x, {sizes.batch});
  return sizes;
}

struct LinearSizes {
  int64_t rows, inputs, outputs;
};

inline LinearSizes check_linear(const Tensor& x,                    // [R, in]
                                const Tensor& packed,               // [panels, in, 128 bytes]
                                const std::optional<Tensor>& bias,  // [out]
                                int64_t outputs) {
  constexpr const char* op = "linear";
  STD_TORCH_CHECK(x.dim() == 2 && packed.dim() == 3, op,
                  ": expected x [R, in], packed [panels, in, w]");
  const LinearSizes sizes{x.size(0), x.size(1), outputs};
  const int64_t width = packed.size(2);
  check_shape(op, "x", x, {sizes.rows, sizes.inputs});
  check(op, "packed", packed, x, {(outputs + width - 1) / width, sizes.inputs, width});
  const int64_t bytes = x.scalar_type() == torch::headeronly::ScalarType::Float ? 4 : 8;
  STD_TORCH_CHECK(width * bytes == 128, op, ": expected panels of 128 bytes, got ", width * bytes);
  if (bias.has_value()) check(op, "bias", *bias, x, {outputs});
  return sizes;
}

struct MlpSizes {
  int64_t batch, latent, outputs;
};

inline MlpSizes check_mlp(const char* op, const Tensor& z,          // [B, k]
                          const std::vector<Tensor>& packed,        // per layer [panels, in, w]
                          const std::vector<Tensor>& biases,        // per layer [panels w]
                          const std::vector<int64_t>& activations,  // per layer
                          const Tensor& target,                     // [B, p]
                          const Tensor& weight,                     // [B, p] or [B, 1]
                          const std::optional<Tensor>& scale,       // [p] or [B, p]
                          const std::optional<Tensor>& constant) {  // [B] double
  STD_TORCH_CHECK(z.dim() == 2 && target.dim() == 2 && weight.dim() == 2, op,
                  ": expected z [B, k], target [B, p], weight [B, p] or [B, 1]");
  const size_t count = packed.size();
  STD_TORCH_CHECK(
      count >= 1 && count <= kMaxLayers && biases.size() == count && activations.size() == count,
      op, ": expected 1 to ", kMaxLayers, " layers, each with bias and activation");
  const MlpSizes sizes{z.size(0), z.size(1), target.size(1)};
  STD_TORCH_CHECK(sizes.latent >= 1, op, ": expected at least one latent dimension");
  const int64_t bytes = z.scalar_type() == torch::headeronly::ScalarType::Float ? 4 : 8;
  check_shape(op, "z", z, {sizes.batch, sizes.latent});
  int64_t inputs = sizes.latent;
  for (size_t l = 0; l < count; ++l) {
    STD_TORCH_CHECK(packed[l].dim() == 3 && biases[l].dim() == 1, op,
                    ": expected packed [panels, in, w] and biases [panels w]");
    const int64_t panels = packed[l].size(0), width = 128 / bytes;
    check(op, "packed", packed[l], z, {panels, packed[l].size(1), width});
    check(op, "biases", biases[l], z, {panels * width});
    // A layer's inputs are the outputs of the one before, less the padding of its last panel.
    const bool fits = l == 0 ? packed[l].size(1) == inputs
                             : packed[l].size(1) <= inputs && packed[l].size(1) > inputs - width;
    STD_TORCH_CHECK(fits, op, ": layer ", l, " has ", packed[l].size(1), " inputs, expected ",
                    inputs);
    STD_TORCH_CHECK(activations[l] >= 0 && activations[l] <= 6, op, ": unknown activation ",
                    activations[l]);
    inputs = panels * width;
    if (l + 1 == count) {
      STD_TORCH_CHECK(sizes.outputs <= inputs && sizes.outputs > inputs - width, op,
                      ": expected target with the network's outputs, got ", sizes.outputs);
    }
  }
  check(op, "target", target, z, {sizes.batch, sizes.outputs});
  check(op, "weight", weight, z, {sizes.batch, weight.size(1) == 1 ? 1 : sizes.outputs});
  if (scale.has_value()) {
    if (scale->dim() == 2) {
      check(op, "scale", *scale, z, {sizes.batch, sizes.outputs});
    } else {
      check(op, "scale", *scale, z, {sizes.outputs});
    }
  }
  if (constant.has_value()) {
    check_shape(op, "constant", *constant, {sizes.batch});
    STD_TORCH_CHECK(constant->scalar_type() == torch::headeronly::ScalarType::Double, op,
                    ": expected constant in float64");
  }
  return sizes;
}

inline void check_rows(const char* op, const Tensor& first,  // [B, n]
                       std::initializer_list<std::pair<const char*, const Tensor*>> rows,
                       std::initializer_list<std::pair<const char*, const Tensor*>> scalars,
                       const Tensor& active) {  // [B] bool
  STD_TORCH_CHECK(first.dim() == 2, op, ": expected rows [B, n]");
  const int64_t batch = first.size(0), size = first.size(1);
  check_shape(op, "the first argument", first, {batch, size});
  for (const auto& [name, tensor] : rows) {
    check(op, name, *tensor, first, {batch, size});
  }
  for (const auto& [name, tensor] : scalars) {
    check(op, name, *tensor, first, {batch});
  }
  check_shape(op, "active", active, {batch});
  STD_TORCH_CHECK(active.scalar_type() == torch::headeronly::ScalarType::Bool, op,
                  ": expected active of type bool");
  STD_TORCH_CHECK(active.is_cuda() == first.is_cuda(), op, ": expected active on one device");
}

}  // namespace jpmap
