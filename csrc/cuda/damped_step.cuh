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

  __device__ double largest(double value) const {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      value = fmax(value, __shfl_xor_sync(mask, value, offset));
    }
    return value;
  }

  __device__ double from(int source, double value) const {
    return __shfl_sync(mask, value, source, kLanes);
  }
};

// 1 / x to the last digit or so for x within the range of float, in a third of a division's time.
__device__ inline double reciprocal(double x) {
  double r = __frcp_rn(static_cast<float>(x));
  r = fma(r, fma(-x, r, 1.0), r);
  return fma(r, fma(-x, r, 1.0), r);
}

// H = matrix + share * hessian [k][k], of which the lower triangle counts.
struct MlpModel {
  const float* matrix;
  const float* hessian;
  float share;

  __device__ double at(int i) const {
    return share == 0.0f ? matrix[i] : static_cast<double>(matrix[i]) + hessian[i];
  }
};

// (H + damping I) x = g for one H and several dampings. `scratch` is shared memory, k (k + 1)
// doubles, and holds x in its first k.
template <int kLanes>
struct DampedSystem {
  const LaneGroup<kLanes>& group;
  int k;
  double* scratch;
  MlpModel model;

  __device__ void load(const MlpModel& from) { model = from; }

  __device__ double largest_diagonal() const {
    double mine = model.at(0);
    for (int i = group.lane; i < k; i += kLanes) mine = fmax(mine, model.at(i * (k + 1)));
    return group.largest(mine);
  }

  // By Cholesky's factorisation; false where H + damping I is not positive definite.
  __device__ bool solve(double damping, const float* g) const {
    double *x = scratch, *factor = scratch + k;
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
};

// Up to eight unknowns: a lane keeps a row of H in registers.
template <>
struct DampedSystem<8> {
  const LaneGroup<8>& group;
  int k;
  double* scratch;
  double row[8];

  __device__ void load(const MlpModel& from) {
    const int i = group.lane;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      row[c] = i < k && c < k ? from.at(max(i, c) * k + min(i, c)) : (i == c ? 1.0 : 0.0);
    }
  }

  __device__ double largest_diagonal() const {
    double mine = 0;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      if (c == group.lane && c < k) mine = row[c];
    }
    return group.largest(mine);
  }

  // By elimination, whose pivots are positive exactly where the matrix is positive definite.
  __device__ bool solve(double damping, const float* g) const {
    double a[8], right = group.lane < k ? g[group.lane] : 0.0, inverse = 1;
#pragma unroll
    for (int c = 0; c < 8; ++c) a[c] = c == group.lane ? row[c] + damping : row[c];
    bool positive = true;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const double pivot = group.from(j, a[j]);
      positive = positive && pivot > 0;
      const bool own = group.lane == j;
      const double over = reciprocal(pivot);
      if (own) inverse = over;
      const double share = own ? 0.0 : a[j] * over;
#pragma unroll
      for (int c = j + 1; c < 8; ++c) a[c] -= share * group.from(j, a[c]);
      right -= share * group.from(j, right);
    }
    if (group.lane < k) scratch[group.lane] = right * inverse;
    group.sync();
    return positive;
  }
};

}  // namespace jpmap
