// The k x k algebra of a damped Gauss-Newton step, in double, by one warp.
#pragma once

#include "cuda/launch.cuh"

namespace jpmap {

__device__ inline double warp_sum(double value) { return group_sum<32>(value); }

// x = (H + damping I)^{-1} g by one warp; false where the matrix is not positive definite.
__device__ inline bool solve(const double* matrix, double damping, const double* g, int k,
                             double* factor, double* x) {
  const int lane = threadIdx.x % 32;
  for (int j = 0; j < k; ++j) {
    for (int i = j + lane; i < k; i += 32) {
      double sum = matrix[i * k + j] + (i == j ? damping : 0.0);
      for (int c = 0; c < j; ++c) sum -= factor[i * k + c] * factor[j * k + c];
      factor[i * k + j] = sum;
    }
    __syncwarp();
    const double pivot = factor[j * k + j];
    if (!(pivot > 0)) return false;
    const double root = sqrt(pivot);
    __syncwarp();
    for (int i = j + lane; i < k; i += 32) {
      factor[i * k + j] = i == j ? root : factor[i * k + j] / root;
    }
    __syncwarp();
  }
  for (int i = lane; i < k; i += 32) x[i] = g[i];
  __syncwarp();
  for (int c = 0; c < k; ++c) {
    const double value = x[c] / factor[c * k + c];
    __syncwarp();
    for (int i = c + lane; i < k; i += 32) {
      x[i] = i == c ? value : x[i] - factor[i * k + c] * value;
    }
    __syncwarp();
  }
  for (int c = k - 1; c >= 0; --c) {
    const double value = x[c] / factor[c * k + c];
    __syncwarp();
    for (int i = lane; i <= c; i += 32) {
      x[i] = i == c ? value : x[i] - factor[c * k + i] * value;
    }
    __syncwarp();
  }
  return true;
}

__device__ inline double largest_diagonal(const double* matrix, int k) {
  double largest = matrix[0];
  for (int i = 1; i < k; ++i) largest = fmax(largest, matrix[i * k + i]);
  return largest;
}

}  // namespace jpmap
