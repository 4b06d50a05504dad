// Gauss-Newton on an MLP decoder: one evaluation (mlp_gauss_newton) and whole solves (mlp_restore).
//
// A worker holds a tile of images, cpu/mlp_descent.h; a finished one makes room for the next.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <limits>

#include "cpu/mlp_descent.h"

namespace jpmap {
namespace {

template <class T>
struct Evaluation {
  T* output;
  double* objective;
  double* gradient;
  double* matrix;
  double* hessian;
};

template <class T>
void evaluate(const Mlp<T>& mlp, const MlpMeasurement& m, const T* z, int64_t batch,
              const Evaluation<T>& out) {
  const auto& kernels = isa_kernels<T>();
  const int64_t k = mlp.latent, stride = mlp.layers[mlp.count - 1].stride;
  const int64_t capacity = tile_images(batch, k, worker_count());
  std::atomic<int64_t> next{0};
  on_every_worker((batch + capacity - 1) / capacity, [&] {
    MlpWorkspace<T> workspace(mlp, capacity);
    std::vector<MlpTarget<T>> targets(capacity);
    std::vector<int64_t> all(capacity);
    std::vector<double*> gradients(capacity), matrices(capacity), hessians(capacity);
    for (int64_t begin; (begin = next.fetch_add(capacity)) < batch;) {
      const int64_t images = std::min(capacity, batch - begin);
      for (int64_t i = 0; i < images; ++i) {
        const int64_t image = begin + i;
        targets[i] = target_of<T>(m, image, mlp.outputs);
        all[i] = i;
        gradients[i] = out.gradient + image * k;
        matrices[i] = out.matrix + image * k * k;
        hessians[i] = out.hessian + image * k * k;
      }
      std::copy_n(z + begin * k, images * k, workspace.tile.z);
      kernels.mlp_forward(mlp, targets.data(), images, workspace.tile, out.objective + begin);
      mlp_system(mlp, all.data(), images, true, workspace.tile, gradients.data(), matrices.data(),
                 hessians.data());
      for (int64_t i = 0; i < images; ++i) {
        std::copy_n(workspace.tile.value[mlp.count - 1] + i * stride, mlp.outputs,
                    out.output + (begin + i) * mlp.outputs);
      }
    }
  });
}

template <class T>
struct Solution {
  T* z;
  double* objective;
  int64_t* steps;
  bool* converged;
};

// Descents of a batch, its images in a queue.
template <class T>
struct Queue {
  const T* start;      // [B][k]
  const bool* active;  // [B], null for all
  const T* known;      // [B][k], null for none
  int64_t batch, latent;
  const Solution<T>& out;
  std::atomic<int64_t> next{0};

  // The next image to work on, -1 if there is none; those left out keep where they start.
  int64_t take() {
    for (;;) {
      const int64_t image = next.fetch_add(1);
      if (image >= batch) return -1;
      if (active == nullptr || active[image]) return image;
      std::copy_n(start + image * latent, latent, out.z + image * latent);
      out.objective[image] = std::numeric_limits<double>::quiet_NaN();
      out.steps[image] = 0;
      out.converged[image] = false;
    }
  }
};

// One worker: a finished descent makes room for the next image of the queue.
template <class T>
void solve(const Mlp<T>& mlp, const MlpMeasurement& m, const DescentSettings& settings,
           Queue<T>& queue, int64_t capacity) {
  const int64_t k = mlp.latent;
  const Solution<T>& out = queue.out;
  DescentTile<T> tile(mlp, m, settings, capacity);
  for (;;) {
    while (!tile.full()) {
      const int64_t image = queue.take();
      if (image < 0) break;
      const T* known = queue.known == nullptr ? nullptr : queue.known + image * k;
      tile.begin(image, image, queue.start + image * k, known);
    }
    if (tile.active() == 0) return;
    tile.step([&](const Descent& s) {
      for (int64_t c = 0; c < k; ++c) out.z[s.image * k + c] = static_cast<T>(s.z[c]);
      out.objective[s.image] = s.objective;
      out.steps[s.image] = s.steps;
      out.converged[s.image] = s.converged;
    });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_gauss_newton(
    Tensor z, Tensors packed, Tensors adjoints, Tensors tangents, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law) {
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes = check_mlp_panels("mlp_gauss_newton", z, packed, adjoints, tangents, biases,
                                      activations, measurement);
  const auto wide = torch::headeronly::ScalarType::Double;
  Tensor output = torch::stable::empty_like(target);
  Tensor objective = torch::stable::new_empty(z, {sizes.batch}, wide);
  Tensor gradient = torch::stable::new_empty(z, {sizes.batch, sizes.latent}, wide);
  Tensor matrix = torch::stable::new_empty(z, {sizes.batch, sizes.latent, sizes.latent}, wide);
  Tensor hessian = torch::stable::empty_like(matrix);
  dispatch_floating("mlp_gauss_newton", z, [&](auto zero) {
    using T = decltype(zero);
    const auto mlp =
        mlp_of<T>({packed, adjoints, tangents, biases, activations}, sizes.latent, sizes.outputs);
    evaluate<T>(mlp, measurement, read<T>(z), sizes.batch,
                {write<T>(output), write<double>(objective), write<double>(gradient),
                 write<double>(matrix), write<double>(hessian)});
  });
  return {output, objective, gradient, matrix, hessian};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_restore(
    Tensor z, Tensors packed, Tensors adjoints, Tensors tangents, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law, double tolerance, int64_t max_steps,
    double initial_damping, bool second_order, std::optional<Tensor> active,
    std::optional<Tensor> known, bool /*low_latency*/) {
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes = check_mlp_panels("mlp_restore", z, packed, adjoints, tangents, biases,
                                      activations, measurement);
  Tensor found = torch::stable::empty_like(z);
  Tensor objective =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Double);
  Tensor steps = torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Long);
  Tensor converged =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Bool);
  const DescentSettings settings{tolerance, max_steps, initial_damping, second_order};
  const bool* worked_on = check_active("mlp_restore", active, z);
  check_known("mlp_restore", known, z);
  dispatch_floating("mlp_restore", z, [&](auto zero) {
    using T = decltype(zero);
    const auto mlp =
        mlp_of<T>({packed, adjoints, tangents, biases, activations}, sizes.latent, sizes.outputs);
    const Solution<T> out{write<T>(found), write<double>(objective), write<int64_t>(steps),
                          write<bool>(converged)};
    const int64_t capacity = tile_images(sizes.batch, sizes.latent, worker_count());
    const T* minima = known.has_value() ? read<T>(*known) : nullptr;
    Queue<T> queue{read<T>(z), worked_on, minima, sizes.batch, sizes.latent, out};
    on_every_worker(sizes.batch, [&] { solve<T>(mlp, measurement, settings, queue, capacity); });
  });
  return {found, objective, steps, converged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("mlp_gauss_newton", TORCH_BOX(&mlp_gauss_newton));
  m.impl("mlp_restore", TORCH_BOX(&mlp_restore));
}

}  // namespace jpmap
