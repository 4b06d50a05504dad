// Gauss-Newton on an MLP decoder: one evaluation (mlp_gauss_newton) and whole solves (mlp_restore).
//
// A worker holds a tile of images. Its trial codes pass through the network together; those whose
// objective fell get their Jacobian, also together; a finished image makes room for the next one.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <limits>

#include "cpu/damped_step.h"
#include "cpu/mlp_arguments.h"
#include "cpu/mlp_workspace.h"

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
      kernels.mlp_system(mlp, all.data(), images, true, workspace.tile, gradients.data(),
                         matrices.data(), hessians.data());
      for (int64_t i = 0; i < images; ++i) {
        std::copy_n(workspace.tile.value[mlp.count - 1] + i * stride, mlp.outputs,
                    out.output + (begin + i) * mlp.outputs);
      }
    }
  });
}

struct Settings {
  double tolerance;
  int64_t max_steps;
  double initial_damping;
  bool second_order;
  const bool* active;  // [B], null for all
};

template <class T>
struct Solution {
  T* z;
  double* objective;
  int64_t* steps;
  bool* converged;
};

// One image being solved; jpmap_fast/solvers/gauss_newton.py states the method.
struct Solve {
  int64_t image;
  bool fresh;  // its first trial is its starting point, taken as it is
  double objective, damping, growth, promised;
  int64_t steps;
  std::vector<double> z, trial, gradient, matrix, hessian, step;
};

template <class T>
class Worker {
 public:
  Worker(const Mlp<T>& mlp, const MlpMeasurement& m, const Settings& settings, const T* start,
         int64_t batch, int64_t capacity, std::atomic<int64_t>& next, const Solution<T>& out)
      : mlp_(mlp),
        measurement_(m),
        settings_(settings),
        start_(start),
        batch_(batch),
        next_(next),
        out_(out),
        workspace_(mlp, capacity),
        solver_(mlp.latent),
        solves_(capacity),
        targets_(capacity),
        objectives_(capacity) {}

  void run() {
    const auto& kernels = isa_kernels<T>();
    const int64_t k = mlp_.latent;
    int64_t active = 0;
    for (;;) {
      while (active < static_cast<int64_t>(solves_.size()) && begin(solves_[active])) ++active;
      if (active == 0) return;
      for (int64_t i = 0; i < active; ++i) {
        const Solve& s = solves_[i];
        targets_[i] = target_of<T>(measurement_, s.image, mlp_.outputs);
        for (int64_t c = 0; c < k; ++c) {
          workspace_.tile.z[i * k + c] = static_cast<T>(s.trial[c]);
        }
      }
      kernels.mlp_forward(mlp_, targets_.data(), active, workspace_.tile, objectives_.data());
      accepted_.clear();
      gradients_.clear();
      matrices_.clear();
      hessians_.clear();
      for (int64_t i = 0; i < active; ++i) {
        Solve& s = solves_[i];
        if (s.fresh || objectives_[i] < s.objective) {
          accepted_.push_back(i);
          gradients_.push_back(s.gradient.data());
          matrices_.push_back(s.matrix.data());
          hessians_.push_back(s.hessian.data());
        }
      }
      if (!accepted_.empty()) {
        kernels.mlp_system(mlp_, accepted_.data(), accepted_.size(), settings_.second_order,
                           workspace_.tile, gradients_.data(), matrices_.data(), hessians_.data());
      }
      int64_t kept = 0;
      for (int64_t i = 0; i < active; ++i) {
        judge(solves_[i], objectives_[i]);
        if (!advance(solves_[i])) continue;
        if (kept != i) std::swap(solves_[kept], solves_[i]);
        ++kept;
      }
      active = kept;
    }
  }

 private:
  bool begin(Solve& s) {
    const int64_t k = mlp_.latent;
    int64_t image = next_.fetch_add(1);
    for (; image < batch_ && settings_.active != nullptr && !settings_.active[image];
         image = next_.fetch_add(1)) {
      std::copy_n(start_ + image * k, k, out_.z + image * k);
      out_.objective[image] = std::numeric_limits<double>::quiet_NaN();
      out_.steps[image] = 0;
      out_.converged[image] = false;
    }
    if (image >= batch_) return false;
    s.image = image;
    s.fresh = true;
    s.growth = 2;
    s.steps = 0;
    s.z.assign(start_ + image * k, start_ + (image + 1) * k);
    s.trial = s.z;
    s.gradient.resize(k);
    s.matrix.resize(k * k);
    s.hessian.resize(k * k);
    s.step.resize(k);
    return true;
  }

  // Takes or refuses the trial just evaluated, and sets the damping of the next.
  void judge(Solve& s, double objective) {
    // A Hessian that is positive definite is the better model; any other is none.
    if (settings_.second_order && (s.fresh || objective < s.objective) &&
        solver_.solve(s.hessian.data(), 0, s.gradient.data(), s.step.data())) {
      s.matrix.swap(s.hessian);
    }
    if (s.fresh) {
      s.fresh = false;
      s.objective = objective;
      s.damping = settings_.initial_damping * largest_diagonal(s.matrix.data(), mlp_.latent);
      return;
    }
    ++s.steps;
    if (objective < s.objective) {
      const double gain = (s.objective - objective) / s.promised;
      // Not std::clamp: a gain that is NaN shrinks the damping, as it does on a GPU.
      s.damping *= std::fmin(std::fmax(1 - std::pow(2 * gain - 1, 3), 1.0 / 3), 2.0);
      s.growth = 2;
      s.objective = objective;
      s.z = s.trial;
    } else {
      s.damping *= s.growth;
      s.growth *= 2;
    }
  }

  // The next trial, or false with the solution written if there is none.
  bool advance(Solve& s) {
    const int64_t k = mlp_.latent;
    const double resolution = 8.0 * std::numeric_limits<T>::epsilon();
    const double* g = s.gradient.data();
    bool finite = std::isfinite(s.objective) && solver_.solve(s.matrix.data(), 0, g, s.step.data());
    double decrement = 0, squared = 0;
    for (int64_t c = 0; c < k; ++c) {
      decrement += g[c] * s.step[c];
      squared += s.step[c] * s.step[c];
    }
    finite = finite && std::isfinite(squared);
    const bool done = std::sqrt(squared / k) <= settings_.tolerance ||
                      decrement <= resolution * std::abs(s.objective);
    const bool stuck = s.damping > largest_diagonal(s.matrix.data(), k) / resolution;
    bool stop = !finite || done || stuck || s.steps >= settings_.max_steps;
    if (!stop && !solver_.solve(s.matrix.data(), s.damping, g, s.step.data())) stop = true;
    if (stop) {
      for (int64_t c = 0; c < k; ++c) out_.z[s.image * k + c] = static_cast<T>(s.z[c]);
      out_.objective[s.image] = s.objective;
      out_.steps[s.image] = s.steps;
      out_.converged[s.image] = finite && (done || stuck);
      return false;
    }
    s.promised = 0;
    for (int64_t c = 0; c < k; ++c) {
      const double d = -s.step[c];
      s.promised += 0.5 * d * (s.damping * d - g[c]);
      s.trial[c] = static_cast<T>(s.z[c] + d);
    }
    return true;
  }

  const Mlp<T>& mlp_;
  const MlpMeasurement& measurement_;
  const Settings& settings_;
  const T* start_;
  int64_t batch_;
  std::atomic<int64_t>& next_;
  const Solution<T>& out_;
  MlpWorkspace<T> workspace_;
  DampedSolver solver_;
  std::vector<Solve> solves_;
  std::vector<MlpTarget<T>> targets_;
  std::vector<double> objectives_;
  std::vector<int64_t> accepted_;
  std::vector<double*> gradients_, matrices_, hessians_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_gauss_newton(
    Tensor z, Tensors packed, Tensors adjoints, Tensors /*tangents*/, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law) {
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes =
      check_mlp_panels("mlp_gauss_newton", z, packed, adjoints, biases, activations, measurement);
  const auto wide = torch::headeronly::ScalarType::Double;
  Tensor output = torch::stable::empty_like(target);
  Tensor objective = torch::stable::new_empty(z, {sizes.batch}, wide);
  Tensor gradient = torch::stable::new_empty(z, {sizes.batch, sizes.latent}, wide);
  Tensor matrix = torch::stable::new_empty(z, {sizes.batch, sizes.latent, sizes.latent}, wide);
  Tensor hessian = torch::stable::empty_like(matrix);
  dispatch_floating("mlp_gauss_newton", z, [&](auto zero) {
    using T = decltype(zero);
    const auto mlp =
        mlp_of<T>({packed, adjoints, biases, activations}, sizes.latent, sizes.outputs);
    evaluate<T>(mlp, measurement, read<T>(z), sizes.batch,
                {write<T>(output), write<double>(objective), write<double>(gradient),
                 write<double>(matrix), write<double>(hessian)});
  });
  return {output, objective, gradient, matrix, hessian};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_restore(
    Tensor z, Tensors packed, Tensors adjoints, Tensors /*tangents*/, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law, double tolerance, int64_t max_steps,
    double initial_damping, bool second_order, std::optional<Tensor> active, bool /*low_latency*/) {
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes =
      check_mlp_panels("mlp_restore", z, packed, adjoints, biases, activations, measurement);
  Tensor found = torch::stable::empty_like(z);
  Tensor objective =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Double);
  Tensor steps = torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Long);
  Tensor converged =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Bool);
  const Settings settings{tolerance, max_steps, initial_damping, second_order,
                          check_active("mlp_restore", active, z)};
  dispatch_floating("mlp_restore", z, [&](auto zero) {
    using T = decltype(zero);
    const auto mlp =
        mlp_of<T>({packed, adjoints, biases, activations}, sizes.latent, sizes.outputs);
    const Solution<T> out{write<T>(found), write<double>(objective), write<int64_t>(steps),
                          write<bool>(converged)};
    const int64_t capacity = tile_images(sizes.batch, sizes.latent, worker_count());
    std::atomic<int64_t> next{0};
    on_every_worker(sizes.batch, [&] {
      Worker<T>(mlp, measurement, settings, read<T>(z), sizes.batch, capacity, next, out).run();
    });
  });
  return {found, objective, steps, converged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("mlp_gauss_newton", TORCH_BOX(&mlp_gauss_newton));
  m.impl("mlp_restore", TORCH_BOX(&mlp_restore));
}

}  // namespace jpmap
