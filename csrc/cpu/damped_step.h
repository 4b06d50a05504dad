// The k x k algebra of a damped Gauss-Newton step, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "damped_system.h"

namespace jpmap {

// x = (H + damping I)^{-1} g by Cholesky; false where H + damping I is not positive definite.
class DampedSolver {
 public:
  explicit DampedSolver(int64_t size) : size_(size), factor_(size * size) {}

  bool solve(const double* matrix, double damping, const double* vector, double* x) {
    if (!factorise(matrix, damping)) return false;
    const int64_t k = size_;
    const double* l = factor_.data();
    for (int64_t i = 0; i < k; ++i) {
      double sum = vector[i];
      for (int64_t c = 0; c < i; ++c) sum -= l[i * k + c] * x[c];
      x[i] = sum / l[i * k + i];
    }
    for (int64_t i = k - 1; i >= 0; --i) {
      double sum = x[i];
      for (int64_t c = i + 1; c < k; ++c) sum -= l[c * k + i] * x[c];
      x[i] = sum / l[i * k + i];
    }
    return true;
  }

  // Makes H of `matrix`, the Gauss-Newton matrix, and x = (H + damping I)^{-1} g; NaN where H is
  // not positive definite. Returns the Hessian's share.
  float choose(double* matrix, const double* hessian, double damping, const double* vector,
               double* x) {
    float share = 0;
    const bool solved = solve(hessian, 0, vector, x);
    if (solved) {
      double squared = 0;
      for (int64_t c = 0; c < size_; ++c) squared += x[c] * x[c];
      if (is_short(squared, size_)) share = 1;
    }
    for (int i = 0; i < kHessianShares && share == 0; ++i) {
      if (is_firm(matrix, hessian, hessian_share(i))) share = hessian_share(i);
    }
    if (share > 0) mix(matrix, hessian, share, matrix);
    const bool there = solved && share == 1 && damping == 0;  // x is what it would be
    if (!there && !solve(matrix, damping, vector, x)) {
      std::fill(x, x + size_, std::numeric_limits<double>::quiet_NaN());
    }
    return share;
  }

 private:
  void mix(const double* matrix, const double* hessian, float share, double* into) const {
    for (int64_t e = 0; e < size_ * size_; ++e) {
      const double model = matrix[e];
      into[e] = share == 1 ? hessian[e] : model + share * (hessian[e] - model);
    }
  }

  bool is_firm(const double* matrix, const double* hessian, float share) {
    mixed_.resize(factor_.size());
    mix(matrix, hessian, share, mixed_.data());
    for (size_t e = 0; e < mixed_.size(); ++e) mixed_[e] -= kModelLeft * matrix[e];
    return factorise(mixed_.data(), 0);
  }

  bool factorise(const double* matrix, double damping) {
    const int64_t k = size_;
    double* l = factor_.data();
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = matrix[i * k + j] + (i == j ? damping : 0);
        for (int64_t c = 0; c < j; ++c) sum -= l[i * k + c] * l[j * k + c];
        if (i == j) {
          if (!(sum > 0)) return false;
          l[i * k + i] = std::sqrt(sum);
        } else {
          l[i * k + j] = sum / l[j * k + j];
        }
      }
    }
    return true;
  }

  int64_t size_;
  std::vector<double> factor_, mixed_;
};

inline double largest_diagonal(const double* matrix, int64_t size) {
  double largest = matrix[0];
  for (int64_t i = 1; i < size; ++i) largest = std::max(largest, matrix[i * size + i]);
  return largest;
}

}  // namespace jpmap
