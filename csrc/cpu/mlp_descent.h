// Damped Gauss-Newton descents side by side: what a worker of the CPU does with a tile of codes.
//
// The trial codes pass through the network together; those whose objective fell get their Jacobian,
// also together. jpmap_fast/solvers/gauss_newton.py states the method.
#pragma once

#include <limits>

#include "cpu/damped_step.h"
#include "cpu/mlp_arguments.h"
#include "cpu/mlp_workspace.h"

namespace jpmap {

struct DescentSettings {
  double tolerance;
  int64_t max_steps;
  double initial_damping;
  bool second_order;
};

// One code on its way down.
struct Descent {
  int64_t owner;  // whose it is, a number of the worker's
  int64_t image;  // whose measurements it is compared with
  bool fresh;     // its first trial is its starting point, taken as it is
  bool last;      // its trial is Newton's own step, with which it ends where f falls
  bool converged;
  float share;  // of the Hessian in the model
  double objective, damping, growth, promised;
  int64_t steps;
  std::vector<double> z, trial, gradient, matrix, hessian, step;
  std::vector<double> known;  // a minimum that it is not to descend to again; empty for none
};

template <class T>
class DescentTile {
 public:
  DescentTile(const Mlp<T>& mlp, const MlpMeasurement& m, const DescentSettings& settings,
              int64_t capacity)
      : mlp_(mlp),
        measurement_(m),
        settings_(settings),
        workspace_(mlp, capacity),
        solver_(mlp.latent),
        descents_(capacity),
        targets_(capacity),
        objectives_(capacity) {}

  bool full() const { return active_ == static_cast<int64_t>(descents_.size()); }
  int64_t active() const { return active_; }

  // Takes a descent from `start` in, which ends where it leads back to `known`, null for nowhere;
  // the tile must not be full.
  void begin(int64_t owner, int64_t image, const T* start, const T* known) {
    const int64_t k = mlp_.latent;
    Descent& s = descents_[active_++];
    s.owner = owner;
    s.image = image;
    s.fresh = true;
    s.last = false;
    s.growth = 2;
    s.steps = 0;
    s.z.assign(start, start + k);
    s.trial = s.z;
    s.known.assign(known, known == nullptr ? known : known + k);
    s.gradient.resize(k);
    s.matrix.resize(k * k);
    s.hessian.resize(k * k);
    s.step.resize(k);
  }

  // One trial of every descent; ended(descent) for those that are through, which leave the tile.
  template <class F>
  void step(const F& ended) {
    const auto& kernels = isa_kernels<T>();
    const int64_t k = mlp_.latent;
    for (int64_t i = 0; i < active_; ++i) {
      const Descent& s = descents_[i];
      targets_[i] = target_of<T>(measurement_, s.image, mlp_.outputs);
      for (int64_t c = 0; c < k; ++c) workspace_.tile.z[i * k + c] = static_cast<T>(s.trial[c]);
    }
    kernels.mlp_forward(mlp_, targets_.data(), active_, workspace_.tile, objectives_.data());
    accepted_.clear();
    gradients_.clear();
    matrices_.clear();
    hessians_.clear();
    for (int64_t i = 0; i < active_; ++i) {
      Descent& s = descents_[i];
      if (!s.last && (s.fresh || objectives_[i] < s.objective)) {
        accepted_.push_back(i);
        gradients_.push_back(s.gradient.data());
        matrices_.push_back(s.matrix.data());
        hessians_.push_back(s.hessian.data());
      }
    }
    if (!accepted_.empty()) {
      mlp_system(mlp_, accepted_.data(), accepted_.size(), settings_.second_order, workspace_.tile,
                 gradients_.data(), matrices_.data(), hessians_.data());
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < active_; ++i) {
      const bool accepted = judge(descents_[i], objectives_[i]);
      if (!advance(descents_[i], accepted)) {
        ended(static_cast<const Descent&>(descents_[i]));
        continue;
      }
      if (kept != i) std::swap(descents_[kept], descents_[i]);
      ++kept;
    }
    active_ = kept;
  }

 private:
  // Takes or refuses the trial just evaluated, and sets the damping of the next. Whether it is
  // taken.
  bool judge(Descent& s, double objective) {
    const bool accepted = s.fresh || objective < s.objective;
    if (accepted && !s.last) {
      const double* g = s.gradient.data();
      s.share = 0;
      if (settings_.second_order) {
        s.share = solver_.choose(s.matrix.data(), s.hessian.data(), 0, g, s.step.data());
      } else if (!solver_.solve(s.matrix.data(), 0, g, s.step.data())) {
        s.step[0] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    if (s.fresh) {
      s.fresh = false;
      s.objective = objective;
      s.damping = settings_.initial_damping * largest_diagonal(s.matrix.data(), mlp_.latent);
      return true;
    }
    ++s.steps;
    if (accepted) {
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
    return accepted;
  }

  // Sets the next trial, or returns false with `converged` set if there is none. `accepted` says
  // that the descent has moved; then `step` is the undamped one, NaN where there is none.
  bool advance(Descent& s, bool accepted) {
    const int64_t k = mlp_.latent;
    if (s.last && accepted) {
      s.converged = true;
      return false;
    }
    const double resolution = 8.0 * std::numeric_limits<T>::epsilon();
    const double* g = s.gradient.data();
    bool finite = true, done = false, back = false, last = false;
    if (accepted) {
      double decrement = 0, squared = 0;
      for (int64_t c = 0; c < k; ++c) {
        decrement += g[c] * s.step[c];
        squared += s.step[c] * s.step[c];
      }
      const double size = std::sqrt(squared / k);
      finite = std::isfinite(s.objective) && std::isfinite(squared);
      done = size <= settings_.tolerance || decrement <= resolution * std::abs(s.objective);
      last = is_last_step(s.share, size, settings_.tolerance);
      back = leads_back(s, squared);
    }
    const bool stuck = s.damping > largest_diagonal(s.matrix.data(), k) / resolution;
    bool stop = !finite || done || stuck || back || s.steps >= settings_.max_steps;
    s.last = !stop && last;
    if (!stop && !s.last) stop = !solver_.solve(s.matrix.data(), s.damping, g, s.step.data());
    if (stop) {
      s.converged = finite && (done || stuck);
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

  // Whether the undamped step, which is where `step` is, leads back to the known minimum.
  bool leads_back(const Descent& s, double squared) const {
    if (s.known.empty()) return false;
    double apart = 0;
    for (int64_t c = 0; c < mlp_.latent; ++c) {
      const double left = s.z[c] - s.step[c] - s.known[c];
      apart += left * left;
    }
    return jpmap::leads_back(s.share, squared, apart, mlp_.latent);
  }

  const Mlp<T>& mlp_;
  const MlpMeasurement& measurement_;
  const DescentSettings& settings_;
  MlpWorkspace<T> workspace_;
  DampedSolver solver_;
  std::vector<Descent> descents_;  // the first `active_` are at work
  std::vector<MlpTarget<T>> targets_;
  std::vector<double> objectives_;
  std::vector<int64_t> accepted_;
  std::vector<double*> gradients_, matrices_, hessians_;
  int64_t active_ = 0;
};

}  // namespace jpmap
