// A damped step for any number of unknowns: one system after the other.
#pragma once

#include "cuda/damped_step.cuh"

namespace jpmap {

// By Cholesky's factorisation, in shared memory.
class OneSystem {
 public:
  // Shared memory, double, that no other warp uses.
  __host__ __device__ static constexpr int scratch(int k) { return k * (k + 1); }

  // Chosen.
  float share;
  double largest, damping;

  // Damped.
  double promised;

  __device__ OneSystem(const MlpSystem& system, const Damping& damping, double* scratch)
      : system_(system), rule_(damping), x_(scratch), factor_(scratch + system.k) {}

  __device__ void choose(float share) {
    this->share = share;
    const int k = system_.k;
    double mine = system_.at(0, share);
    for (int i = group_.lane; i < k; i += 32) mine = fmax(mine, system_.at(i * (k + 1), share));
    largest = group_.largest(mine);
    damping = rule_.of(largest);
  }

  __device__ NewtonStep newton(bool second_order) {
    float share = 0.0f;
    if (second_order && solve(1.0f, 0) && is_short(squared(), system_.k)) share = 1.0f;
    for (int i = 0; second_order && i < kHessianShares && share == 0.0f; ++i) {
      if (factorise(hessian_share(i), kModelLeft, 0)) share = hessian_share(i);
    }
    const bool solved = solve(share, 0);
    choose(share);
    double decrement = 0;
    for (int c = group_.lane; c < system_.k; c += 32) decrement += system_.gradient[c] * x_[c];
    return {solved, group_.sum(decrement), squared()};
  }

  __device__ void undamped() {}  // where it is

  __device__ bool damped() {
    if (!solve(share, damping)) return false;
    double sum = 0;
    for (int c = group_.lane; c < system_.k; c += 32) {
      sum += 0.5 * x_[c] * (damping * x_[c] + system_.gradient[c]);
    }
    promised = group_.sum(sum);
    return true;
  }

  __device__ double step(int c) const { return x_[c]; }

 private:
  __device__ double squared() const {
    double sum = 0;
    for (int c = group_.lane; c < system_.k; c += 32) sum += x_[c] * x_[c];
    return group_.sum(sum);
  }

  const MlpSystem system_;
  const Damping rule_;
  const LaneGroup<32> group_;
  double *x_, *factor_;

  // False where the system is not positive definite.
  __device__ bool factorise(float share, double less, double damping) const {
    const int k = system_.k;
    double* factor = factor_;
    __syncwarp();
    for (int j = 0; j < k; ++j) {
      for (int i = j + group_.lane; i < k; i += 32) {
        double sum = system_.at(i * k + j, share, less) + (i == j ? damping : 0.0);
        for (int c = 0; c < j; ++c) sum -= factor[i * k + c] * factor[j * k + c];
        factor[i * k + j] = sum;
      }
      __syncwarp();
      const double pivot = factor[j * k + j];
      if (!(pivot > 0)) return false;
      const double inverse = rsqrt(pivot);
      __syncwarp();
      for (int i = j + group_.lane; i < k; i += 32) factor[i * k + j] *= inverse;
      __syncwarp();
    }
    return true;
  }

  __device__ bool solve(float share, double damping) const {
    if (!factorise(share, 0, damping)) return false;
    const int k = system_.k;
    double *x = x_, *factor = factor_;
    for (int i = group_.lane; i < k; i += 32) x[i] = system_.gradient[i];
    __syncwarp();
    for (int c = 0; c < k; ++c) {
      const double value = x[c] / factor[c * k + c];
      __syncwarp();
      for (int i = c + group_.lane; i < k; i += 32) {
        x[i] = i == c ? value : x[i] - factor[i * k + c] * value;
      }
      __syncwarp();
    }
    for (int c = k - 1; c >= 0; --c) {
      const double value = x[c] / factor[c * k + c];
      __syncwarp();
      for (int i = group_.lane; i <= c; i += 32) {
        x[i] = i == c ? value : x[i] - factor[c * k + i] * value;
      }
      __syncwarp();
    }
    return true;
  }
};

}  // namespace jpmap
