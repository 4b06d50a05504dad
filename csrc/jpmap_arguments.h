// Argument checks of mlp_jpmap that its CPU and its CUDA version share.
#pragma once

#include "arguments.h"
#include "jpmap_task.h"

namespace jpmap {

// What x is made of at a code, and J1: of a diagonal A y = m x + noise, or of A = U H with
// H H^T = diag(values), of which y is A^T y, target U^T y and lost what of y no x can explain.
struct JointMeasurement {
  const Tensor& y;                      // [B, n]
  const std::optional<Tensor>& mask;    // [n] or [B, n]; diagonal alone
  const std::optional<Tensor>& values;  // [p] or [B, p]; null for a diagonal A
  const std::optional<Tensor>& lost;    // [B, q]
  const Tensor& beta;                   // [B]
  const Tensor& sigma;                  // [B]
  const Tensor& starts;                 // [K, k] or [B, K, k]
};

struct JointSizes {
  int64_t batch, pixels, latent, starts, lost;
  bool mask_each, values_each, starts_each;  // one an image
};

inline bool per_image(const std::optional<Tensor>& tensor) {
  return tensor.has_value() && tensor->dim() == 2;
}

inline JointSizes check_joint(const char* op, const JointMeasurement& m, int64_t outputs) {
  STD_TORCH_CHECK(m.y.dim() == 2, op, ": expected y [B, n]");
  STD_TORCH_CHECK(m.starts.dim() == 2 || m.starts.dim() == 3, op,
                  ": expected starts [K, k] or [B, K, k]");
  const bool each = m.starts.dim() == 3;
  JointSizes sizes{m.y.size(0), m.y.size(1),       m.starts.size(each ? 2 : 1), m.starts.size(each),
                   0,           per_image(m.mask), per_image(m.values),         each};
  STD_TORCH_CHECK(sizes.starts >= 1, op, ": expected at least one start");
  const auto shaped = [&](const char* name, const Tensor& tensor, int64_t columns) {
    if (tensor.dim() == 2) {
      check(op, name, tensor, m.y, {sizes.batch, columns});
    } else {
      check(op, name, tensor, m.y, {columns});
    }
  };
  check(op, "y", m.y, m.y, {sizes.batch, sizes.pixels});
  if (each) {
    check(op, "starts", m.starts, m.y, {sizes.batch, sizes.starts, sizes.latent});
  } else {
    check(op, "starts", m.starts, m.y, {sizes.starts, sizes.latent});
  }
  check(op, "beta", m.beta, m.y, {sizes.batch});
  check(op, "sigma", m.sigma, m.y, {sizes.batch});
  STD_TORCH_CHECK(m.values.has_value() || !m.lost.has_value(), op,
                  ": expected no lost part of a diagonal operator");
  STD_TORCH_CHECK(!m.values.has_value() || !m.mask.has_value(), op,
                  ": expected a mask or values, not both");
  if (m.mask.has_value()) shaped("mask", *m.mask, sizes.pixels);
  if (m.values.has_value()) shaped("values", *m.values, outputs);
  if (m.lost.has_value()) {
    STD_TORCH_CHECK(m.lost->dim() == 2, op, ": expected lost [B, q]");
    sizes.lost = m.lost->size(1);
    check(op, "lost", *m.lost, m.y, {sizes.batch, sizes.lost});
  }
  return sizes;
}

inline TaskSettings check_task(const char* op, int64_t n1, int64_t n2, int64_t max_iterations,
                               double tolerance, bool again, bool encoder, int64_t starts) {
  STD_TORCH_CHECK(n1 >= 0 && n2 >= 0 && max_iterations >= 1, op,
                  ": expected n1, n2 >= 0 and max_iterations >= 1");
  STD_TORCH_CHECK(!encoder || n1 + n2 > 0, op, ": expected no encoder where it is not asked");
  // The second start is z = 0, where the encoder's has x = A^T y.
  return {n1, n2, max_iterations, tolerance, again, encoder && starts > 1};
}

// A network without a way back: what its first layer takes and its last one gives.
inline void check_forward_panels(const char* op, const char* name, const Tensor& like,
                                 const std::vector<Tensor>& packed,
                                 const std::vector<Tensor>& biases,
                                 const std::vector<int64_t>& activations, int64_t inputs,
                                 int64_t outputs) {
  STD_TORCH_CHECK(packed.size() >= 1 && packed.size() <= kMaxLayers &&
                      biases.size() == packed.size() && activations.size() == packed.size(),
                  op, ": expected 1 to ", kMaxLayers, " layers of the ", name,
                  ", each with weight, bias and activation");
  const int64_t width = like.scalar_type() == torch::headeronly::ScalarType::Float ? 32 : 16;
  for (size_t l = 0; l < packed.size(); ++l) {
    check_activation(op, activations[l]);
    STD_TORCH_CHECK(packed[l].dim() == 3 && biases[l].dim() == 1, op,
                    ": expected panels [panels, in, w] and biases [panels w] of the ", name);
    const int64_t panels = packed[l].size(0);
    check(op, name, packed[l], like, {panels, inputs, width});
    check(op, name, biases[l], like, {panels * width});
    inputs = l + 1 < packed.size() ? packed[l + 1].size(1) : outputs;
    STD_TORCH_CHECK(inputs <= panels * width && inputs > (panels - 1) * width, op,
                    ": expected layers of the ", name, " that fit each other and the images");
  }
}

}  // namespace jpmap
