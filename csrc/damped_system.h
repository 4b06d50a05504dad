// The model of a damped step, what damped_solve takes, and what a block of its CUDA kernel holds.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace jpmap {

constexpr int64_t kMaxDampedSystem = 128;

// H of a step is M + s (Hessian - M), M the Gauss-Newton matrix and s the largest of these shares
// with which H - kModelLeft M is positive definite, else 0. A model that is barely positive
// definite sends steps so far that rounding decides where they end, and most of those are refused.
constexpr int kHessianShares = 3;
constexpr double kModelLeft = 1.0 / 3;
JPMAP_SHARED float hessian_share(int i) { return 1.0f / static_cast<float>(1 << i); }

// Whether Newton's step, of this root mean square, ends a descent if f falls by it: the next one
// would be of the order of its square. Only where H is the Hessian itself.
JPMAP_SHARED bool is_last_step(float share, double size, double tolerance) {
  return share == 1.0f && size * size <= tolerance;
}

// Bytes of shared memory for k unknowns: the lower triangle in double, row after row, and two
// vectors. The largest system takes 68 kB, which every device of compute capability 8.0 and up has.
inline int64_t damped_shared_memory(int64_t k) { return 8 * (k * (k + 1) / 2 + 2 * k); }

}  // namespace jpmap
