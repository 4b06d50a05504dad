// The k x k algebra of a damped Gauss-Newton step, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace jpmap {

// x = (H + damping I)^{-1} g by Cholesky; false where H + damping I is not positive definite.
class DampedSolver {
 public:
  explicit DampedSolver(int64_t size) : size_(size), factor_(size * size) {}

  bool solve(const double* matrix, double damping, const double* vector, double* x) {
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

 private:
  int64_t size_;
  std::vector<double> factor_;
};

inline double largest_diagonal(const double* matrix, int64_t size) {
  double largest = matrix[0];
  for (int64_t i = 1; i < size; ++i) largest = std::max(largest, matrix[i * size + i]);
  return largest;
}

}  // namespace jpmap
