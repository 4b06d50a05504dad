// The k x k algebra of a damped Gauss-Newton step, in double, by one warp in lock step.
#pragma once

#include <cuda_runtime.h>

#include "damped_system.h"

namespace jpmap {

// kLanes consecutive lanes of a warp that work together. All lanes of the warp call alike.
template <int kLanes>
struct LaneGroup {
  static constexpr unsigned kWarp = 0xffffffffu;
  int lane = threadIdx.x % kLanes;

  __device__ double sum(double value) const {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      value += __shfl_xor_sync(kWarp, value, offset);
    }
    return value;
  }

  __device__ double largest(double value) const {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      value = fmax(value, __shfl_xor_sync(kWarp, value, offset));
    }
    return value;
  }

  __device__ double from(int source, double value) const {
    return __shfl_sync(kWarp, value, source, kLanes);
  }
};

// H x = g, H = matrix + share * hessian [k][k], of which the lower triangle counts.
struct MlpSystem {
  const float *matrix, *hessian, *gradient;
  int k;

  // An element of H, less a part of the matrix. Reads both, so that none waits for a branch.
  __device__ double at(int i, float share, double less = 0) const {
    const double model = matrix[i], rest = hessian[i], left = fma(-less, model, model);
    return share == 0.0f ? left : fma(static_cast<double>(share), rest, left);
  }
};

// What is added to the diagonal of H, perhaps in units of its largest element.
struct Damping {
  double value;
  bool relative;

  __device__ double of(double largest_diagonal) const {
    return relative ? value * largest_diagonal : value;
  }
};

// The step x of H itself.
struct NewtonStep {
  bool solved;                // H is positive definite
  double decrement, squared;  // g x and x x, of no meaning otherwise
};

// The two kinds of algebra, OneSystem and FourSystems, are used alike, by all lanes of a warp,
// which get the same answers:
//   newton   H of damped_system.h, or the matrix alone where no Hessian is wanted, and its step;
//   choose   H with this share of the Hessian instead; either sets what is "chosen" below;
//   undamped after newton, takes its step;
//   damped   solves (H + damping I) x = g instead, or says that this is not positive definite;
//   step(c)  then is x_c in lane c % 32, and `promised` by how much a damped x lowers the model.

}  // namespace jpmap
