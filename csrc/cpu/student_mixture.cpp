// Student-t mixtures of images at many codes each (student_mixture, student_mixture_sums): the
// proposals of a sampler. An image is one worker's, so that its sums have one order.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <vector>

#include "arguments.h"
#include "cpu/isa/kernels.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

// No vector holds more doubles.
constexpr int64_t kMostLanes = 8;

struct Mixtures {
  MixtureSizes sizes;
  const double *log_weight, *mean, *scale;
  double degrees, defensive;
};

// The mixture of one image and the room for its codes.
class OfImage {
 public:
  OfImage(const Mixtures& all, int64_t image)
      : used_(new bool[all.sizes.components]), heights_(all.sizes.components) {
    const auto& [batch, draws, k, components] = all.sizes;
    const double nu = all.degrees;
    const double constant = log_of_student(nu, k);
    const double* scale = all.scale + image * components * k * k;
    for (int64_t c = 0; c < components; ++c) {
      const double log_weight = all.log_weight[image * components + c];
      used_[c] = !(log_weight == -INFINITY);
      heights_[c] = constant + log_weight;
      for (int64_t i = 0; i < k; ++i) heights_[c] -= std::log(scale[(c * k + i) * k + i]);
    }
    mixture = {components,
               k,
               nu,
               used_.get(),
               heights_.data(),
               all.mean + image * components * k,
               scale,
               all.defensive > 0,
               log_of_prior(all.defensive, k),
               std::log1p(-all.defensive)};
    const int64_t stride = (draws + kMostLanes - 1) / kMostLanes * kMostLanes;
    const int64_t sums = k * (k + 3) / 2 * kMostLanes;
    memory_.resize((k + 2 * components + 1) * stride + k * kMostLanes + sums);
    double* at = memory_.data();
    const auto take = [&](int64_t count) {
      double* const begin = at;
      at += count;
      return begin;
    };
    room.stride = stride;
    room.z = take(k * stride);
    room.distance = take(components * stride);
    room.part = take(components * stride);
    room.total = take(stride);
    room.step = take(k * kMostLanes);
    room.sums = take(sums);
  }

  Mixture mixture;
  MixtureRoom room;

 private:
  std::unique_ptr<bool[]> used_;
  std::vector<double> heights_, memory_;
};

template <class F>
void for_each_image(const MixtureSizes& sizes, const F& body) {
  const int64_t k = sizes.latent;
  for_each_item(sizes.batch, sizes.draws * sizes.components * k * k, body);
}

Tensor student_mixture(Tensor z, Tensor log_weight, Tensor mean, Tensor scale, double degrees,
                       double defensive) {
  const char* op = "student_mixture";
  const auto sizes = check_mixture(op, z, log_weight, mean, scale, degrees);
  check_defensive(op, defensive);
  const Mixtures all{
      sizes, read<double>(log_weight), read<double>(mean), read<double>(scale), degrees, defensive};
  Tensor out = torch::stable::new_empty(z, {sizes.batch, sizes.draws});
  for_each_image(sizes, [&](int64_t b) {
    const OfImage one(all, b);
    mixture_kernels().mixture_density(one.mixture, read<double>(z) + b * sizes.draws * sizes.latent,
                                      sizes.draws, one.room, write<double>(out) + b * sizes.draws);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> student_mixture_sums(Tensor z, Tensor weights,
                                                                        Tensor log_weight,
                                                                        Tensor mean, Tensor scale,
                                                                        double degrees) {
  const char* op = "student_mixture_sums";
  const auto sizes = check_mixture(op, z, log_weight, mean, scale, degrees);
  const auto& [batch, draws, k, components] = sizes;
  check(op, "weights", weights, z, {batch, draws});
  const Mixtures all{
      sizes, read<double>(log_weight), read<double>(mean), read<double>(scale), degrees, 0.0};
  const auto zeros = [&](std::initializer_list<int64_t> shape) {
    Tensor made = torch::stable::new_empty(z, shape);
    std::fill_n(write<double>(made), made.numel(), 0.0);
    return made;
  };
  Tensor mass = zeros({batch, components}), squares = zeros({batch, components});
  Tensor robust = zeros({batch, components}), first = zeros({batch, components, k});
  Tensor second = zeros({batch, components, k, k});
  for_each_image(sizes, [&](int64_t b) {
    const OfImage one(all, b);
    const int64_t at = b * components;
    mixture_kernels().mixture_sums(
        one.mixture, read<double>(z) + b * draws * k, read<double>(weights) + b * draws, draws,
        one.room,
        {write<double>(mass) + at, write<double>(squares) + at, write<double>(robust) + at,
         write<double>(first) + at * k, write<double>(second) + at * k * k});
  });
  return {mass, squares, robust, first, second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("student_mixture", TORCH_BOX(&student_mixture));
  m.impl("student_mixture_sums", TORCH_BOX(&student_mixture_sums));
}

}  // namespace jpmap
