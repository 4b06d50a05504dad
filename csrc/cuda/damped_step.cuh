// The k x k algebra of a damped Gauss-Newton step, in double, by a group of lanes of one warp.
#pragma once

#include <cuda_runtime.h>

namespace jpmap {

// kLanes consecutive lanes that work on one system.
template <int kLanes>
struct LaneGroup {
  int lane = threadIdx.x % kLanes;
  unsigned mask = kLanes == 32
                      ? 0xffffffffu
                      : ((1u << (kLanes % 32)) - 1u) << (threadIdx.x % 32 / kLanes * kLanes);

  __device__ void sync() const { __syncwarp(mask); }

  __device__ double sum(double value) const {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      value += __shfl_xor_sync(mask, value, offset);
    }
    return value;
  }
};

// H = matrix + share * hessian, of which the lower triangle counts.
struct MlpModel {
  const float* matrix;
  const float* hessian;
  float share;

  __device__ double at(int i) const {
    return share == 0.0f ? matrix[i] : static_cast<double>(matrix[i]) + hessian[i];
  }

  __device__ double largest_diagonal(int k) const {
    double largest = at(0);
    for (int i = 1; i < k; ++i) largest = fmax(largest, at(i * (k + 1)));
    return largest;
  }
};

// x = (H + damping I)^{-1} g; false where the matrix is not positive definite.
template <int kLanes>
__device__ bool solve(const LaneGroup<kLanes>& group, const MlpModel& model, double damping,
                      const float* g, int k, double* factor, double* x) {
  group.sync();
  for (int j = 0; j < k; ++j) {
    for (int i = j + group.lane; i < k; i += kLanes) {
      double sum = model.at(i * k + j) + (i == j ? damping : 0.0);
      for (int c = 0; c < j; ++c) sum -= factor[i * k + c] * factor[j * k + c];
      factor[i * k + j] = sum;
    }
    group.sync();
    const double pivot = factor[j * k + j];
    if (!(pivot > 0)) return false;
    const double inverse = rsqrt(pivot);
    group.sync();
    for (int i = j + group.lane; i < k; i += kLanes) factor[i * k + j] *= inverse;
    group.sync();
  }
  for (int i = group.lane; i < k; i += kLanes) x[i] = g[i];
  group.sync();
  for (int c = 0; c < k; ++c) {
    const double value = x[c] / factor[c * k + c];
    group.sync();
    for (int i = c + group.lane; i < k; i += kLanes) {
      x[i] = i == c ? value : x[i] - factor[i * k + c] * value;
    }
    group.sync();
  }
  for (int c = k - 1; c >= 0; --c) {
    const double value = x[c] / factor[c * k + c];
    group.sync();
    for (int i = group.lane; i <= c; i += kLanes) {
      x[i] = i == c ? value : x[i] - factor[c * k + i] * value;
    }
    group.sync();
  }
  return true;
}

}  // namespace jpmap
