// Argument checks and result allocation that the CPU and the CUDA version of an operator share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "check.h"
#include "damped_system.h"
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

struct DampedSizes {
  int64_t batch, latent;
};

inline DampedSizes check_damped_solve(const Tensor& matrix,                    // [B, k, k]
                                      const std::optional<Tensor>& hessian,    // [B, k, k]
                                      const Tensor& gradient,                  // [B, k]
                                      const std::optional<Tensor>& damping) {  // [B] double
  constexpr const char* op = "damped_solve";
  STD_TORCH_CHECK(gradient.dim() == 2, op, ": expected gradient [B, k]");
  const DampedSizes sizes{gradient.size(0), gradient.size(1)};
  STD_TORCH_CHECK(sizes.latent >= 1 && sizes.latent <= kMaxDampedSystem, op,
                  ": expected k from 1 to ", kMaxDampedSystem, ", got ", sizes.latent);
  check_shape(op, "matrix", matrix, {sizes.batch, sizes.latent, sizes.latent});
  check(op, "gradient", gradient, matrix, {sizes.batch, sizes.latent});
  if (hessian.has_value()) {
    check(op, "hessian", *hessian, matrix, {sizes.batch, sizes.latent, sizes.latent});
  }
  if (damping.has_value()) {
    check_typed(op, "damping", *damping, torch::headeronly::ScalarType::Double, matrix,
                {sizes.batch});
  }
  return sizes;
}

// Solution [B, k] and the Hessian's share [B].
inline std::tuple<Tensor, Tensor> damped_results(const DampedSizes& sizes, const Tensor& like) {
  return {torch::stable::new_empty(like, {sizes.batch, sizes.latent},
                                   torch::headeronly::ScalarType::Double),
          torch::stable::new_empty(like, {sizes.batch}, torch::headeronly::ScalarType::Float)};
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

inline void check_activation(const char* op, int64_t activation) {
  STD_TORCH_CHECK(activation >= 0 && activation <= static_cast<int64_t>(Activation::kIdentity), op,
                  ": unknown activation ", activation);
}

// What the outputs of a network are compared with; mlp_network.h has the formulas.
struct MlpMeasurement {
  const Tensor& target;                   // [B, p]
  const Tensor& weight;                   // [B, p] or [B, 1]
  const std::optional<Tensor>& scale;     // [p] or [B, p]
  const std::optional<Tensor>& constant;  // [B] double
  const std::optional<Tensor>& law;       // [B, 4]
};

struct MlpSizes {
  int64_t batch, latent, outputs;
  int64_t draws;  // codes an image
};

// What the layouts of the fused MLP operators have in common.
inline MlpSizes check_mlp(const char* op, const Tensor& z,          // [B, k] or [B, N, k]
                          const std::vector<Tensor>& weights,       // per layer
                          const std::vector<Tensor>& adjoints,      // per layer
                          const std::vector<Tensor>& biases,        // per layer
                          const std::vector<int64_t>& activations,  // per layer
                          const MlpMeasurement& m,                  // of the outputs
                          bool draws) {                             // whether z is [B, N, k]
  const auto& [target, weight, scale, constant, law] = m;
  STD_TORCH_CHECK(z.dim() == (draws ? 3 : 2) && target.dim() == 2 && weight.dim() == 2, op,
                  ": expected z ", draws ? "[B, N, k]" : "[B, k]",
                  ", target [B, p], weight [B, p] or [B, 1]");
  const size_t count = weights.size();
  STD_TORCH_CHECK(count >= 1 && count <= kMaxLayers && adjoints.size() == count &&
                      biases.size() == count && activations.size() == count,
                  op, ": expected 1 to ", kMaxLayers,
                  " layers, each with weight, adjoint, bias and activation");
  for (const int64_t activation : activations) check_activation(op, activation);
  const MlpSizes sizes{z.size(0), z.size(draws ? 2 : 1), target.size(1), draws ? z.size(1) : 1};
  STD_TORCH_CHECK(sizes.latent >= 1 && sizes.latent <= kMaxLatent, op, ": expected 1 to ",
                  kMaxLatent, " latent dimensions, got ", sizes.latent);
  if (draws) {
    check_shape(op, "z", z, {sizes.batch, sizes.draws, sizes.latent});
  } else {
    check_shape(op, "z", z, {sizes.batch, sizes.latent});
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
    check_typed(op, "constant", *constant, torch::headeronly::ScalarType::Double, z, {sizes.batch});
  }
  if (law.has_value()) check(op, "law", *law, z, {sizes.batch, kLawNumbers});
  return sizes;
}

// Which images a solve works on: `active` [B] bool, null for all.
inline const bool* check_active(const char* op, const std::optional<Tensor>& active,
                                const Tensor& z) {
  if (!active.has_value()) return nullptr;
  check_typed(op, "active", *active, torch::headeronly::ScalarType::Bool, z, {z.size(0)});
  return read<bool>(*active);
}

// Minima that descents are not to go back to: `known` as z, nothing for none.
inline void check_known(const char* op, const std::optional<Tensor>& known, const Tensor& z) {
  if (known.has_value()) check(op, "known", *known, z, {z.size(0), z.size(1)});
}

// Whether the `tangents` of layers in panels are there. Where there are none a package has other
// tensors in their place, since it holds no empty list.
inline bool has_bfloat16(const std::vector<Tensor>& tangents) {
  return !tangents.empty() && tangents[0].scalar_type() == torch::headeronly::ScalarType::BFloat16;
}

// Layers in panels (CPU): weights [panels, in, w], adjoints [panels, out, w], biases [panels w];
// in bfloat16 tangents of every layer but the first, [panels, pairs of inputs, 2 w], with float32.
inline MlpSizes check_mlp_panels(const char* op, const Tensor& z, const std::vector<Tensor>& packed,
                                 const std::vector<Tensor>& adjoints,
                                 const std::vector<Tensor>& tangents,
                                 const std::vector<Tensor>& biases,
                                 const std::vector<int64_t>& activations, const MlpMeasurement& m,
                                 bool draws = false) {
  const MlpSizes sizes = check_mlp(op, z, packed, adjoints, biases, activations, m, draws);
  const int64_t bytes = z.scalar_type() == torch::headeronly::ScalarType::Float ? 4 : 8;
  const int64_t width = 128 / bytes;
  const auto panels = [&](int64_t columns) { return (columns + width - 1) / width; };
  const bool narrow = has_bfloat16(tangents);
  STD_TORCH_CHECK(!narrow || (bytes == 4 && tangents.size() + 1 == packed.size()), op,
                  ": expected tangents in bfloat16 with float32 alone, of every layer but the "
                  "first, got ",
                  tangents.size(), " for ", packed.size(), " layers");
  int64_t inputs = sizes.latent;
  for (size_t l = 0; l < packed.size(); ++l) {
    STD_TORCH_CHECK(packed[l].dim() == 3 && adjoints[l].dim() == 3 && biases[l].dim() == 1, op,
                    ": expected panels [panels, in, w] and biases [panels w]");
    STD_TORCH_CHECK(packed[l].size(1) == inputs, op, ": layer ", l, " has ", packed[l].size(1),
                    " inputs, expected ", inputs);
    const int64_t outputs = adjoints[l].size(1);
    check(op, "packed", packed[l], z, {panels(outputs), inputs, width});
    check(op, "adjoints", adjoints[l], z, {panels(inputs), outputs, width});
    check(op, "biases", biases[l], z, {panels(outputs) * width});
    if (narrow && l > 0) {
      check_typed(op, "tangents", tangents[l - 1], torch::headeronly::ScalarType::BFloat16, z,
                  {panels(outputs), (inputs + 1) / 2, 2 * width});
    }
    inputs = outputs;
  }
  STD_TORCH_CHECK(sizes.outputs == inputs, op, ": expected target with the network's outputs, got ",
                  sizes.outputs);
  return sizes;
}

// W [outputs, inputs] split in two parts of float16, in the order of kernels/mlp_network.py.
inline void check_split(const char* op, const char* name, const Tensor& tensor, const Tensor& like,
                        int64_t outputs, int64_t inputs) {
  check_typed(op, name, tensor, torch::headeronly::ScalarType::Half, like,
              {outputs / 8, 16 * inputs});
  check_aligned(op, name, tensor);
}

// Layers in rows (CUDA), all sizes but the latent one padded to a multiple of 32: weights [out,
// in], adjoints [in, out]. `tangents` are, of every layer but the first, W split, then W^T split,
// both times 2^13 s; then of every layer the power of two s [1].
inline MlpSizes check_mlp_rows(const char* op, const Tensor& z, const std::vector<Tensor>& weights,
                               const std::vector<Tensor>& adjoints,
                               const std::vector<Tensor>& tangents,
                               const std::vector<Tensor>& biases,
                               const std::vector<int64_t>& activations, const MlpMeasurement& m,
                               bool draws = false) {
  const MlpSizes sizes = check_mlp(op, z, weights, adjoints, biases, activations, m, draws);
  const size_t split = weights.size() - 1;
  STD_TORCH_CHECK(tangents.size() == 3 * split + 1, op,
                  ": expected tangents, adjoints and a scale of the layers, ", 3 * split + 1,
                  " in all, got ", tangents.size());
  int64_t inputs = sizes.latent;
  for (size_t l = 0; l < weights.size(); ++l) {
    STD_TORCH_CHECK(biases[l].dim() == 1 && biases[l].size(0) % 32 == 0, op,
                    ": expected biases padded to a multiple of 32");
    const int64_t outputs = biases[l].size(0);
    check(op, "weights", weights[l], z, {outputs, inputs});
    check(op, "biases", biases[l], z, {outputs});
    check(op, "adjoints", adjoints[l], z, {inputs, outputs});
    for (const auto& [name, tensor] :
         {std::pair{"weights", &weights[l]}, {"adjoints", &adjoints[l]}, {"biases", &biases[l]}}) {
      check_aligned(op, name, *tensor);
    }
    check_typed(op, "the scale of tangents", tangents[2 * split + l],
                torch::headeronly::ScalarType::Float, z, {1});
    if (l > 0) {
      const Tensor &split_rows = tangents[l - 1], &split_columns = tangents[split + l - 1];
      check_split(op, "tangents", split_rows, z, outputs, inputs);
      check_split(op, "tangents", split_columns, z, inputs, outputs);
    }
    inputs = outputs;
  }
  STD_TORCH_CHECK(sizes.outputs <= inputs && sizes.outputs > inputs - 32, op,
                  ": expected target with the network's outputs, got ", sizes.outputs);
  return sizes;
}

struct MixtureSizes {
  int64_t batch, draws, latent, components;
};

inline MixtureSizes check_mixture(const char* op, const Tensor& z,  // [B, N, k] double
                                  const Tensor& log_weight,         // [B, C]
                                  const Tensor& mean,               // [B, C, k]
                                  const Tensor& scale,              // [B, C, k, k]
                                  double degrees) {
  STD_TORCH_CHECK(z.dim() == 3 && log_weight.dim() == 2, op,
                  ": expected z [B, N, k], log_weight [B, C]");
  STD_TORCH_CHECK(z.scalar_type() == torch::headeronly::ScalarType::Double, op,
                  ": expected z in float64");
  STD_TORCH_CHECK(degrees > 0, op, ": expected degrees > 0, got ", degrees);
  const MixtureSizes sizes{z.size(0), z.size(1), z.size(2), log_weight.size(1)};
  const auto& [batch, draws, k, components] = sizes;
  check_shape(op, "z", z, {batch, draws, k});
  check(op, "log_weight", log_weight, z, {batch, components});
  check(op, "mean", mean, z, {batch, components, k});
  check(op, "scale", scale, z, {batch, components, k, k});
  return sizes;
}

inline void check_defensive(const char* op, double defensive) {
  STD_TORCH_CHECK(defensive >= 0 && defensive < 1, op, ": expected defensive in [0, 1), got ",
                  defensive);
}

struct WeightedSizes {
  int64_t batch, rows, size;
};

inline WeightedSizes check_weighted(const char* op, const Tensor& values,  // [B, N, n]
                                    const Tensor& weights) {               // [B, N] double
  STD_TORCH_CHECK(values.dim() == 3, op, ": expected values [B, N, n]");
  const WeightedSizes sizes{values.size(0), values.size(1), values.size(2)};
  check_shape(op, "values", values, {sizes.batch, sizes.rows, sizes.size});
  check_typed(op, "weights", weights, torch::headeronly::ScalarType::Double, values,
              {sizes.batch, sizes.rows});
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
  check_typed(op, "active", active, torch::headeronly::ScalarType::Bool, first, {batch});
}

}  // namespace jpmap
