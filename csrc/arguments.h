// Argument checks and result allocation that the CPU and the CUDA version of an operator share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "check.h"

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
