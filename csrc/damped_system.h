// The model of a damped step, what damped_solve takes, and what a block of its CUDA kernel holds.
#pragma once

#include <math.h>

#include <cstdint>

#include "host_device.h"

namespace jpmap {

constexpr int64_t kMaxDampedSystem = 128;

// H of a step is M + s (Hessian - M), M the Gauss-Newton matrix and s the largest of these shares
// with which H - kModelLeft M is positive definite, else 0. A model that is barely positive
// definite sends steps so far that rounding decides where they end, and most of those are refused.
// Beside a minimum steps are to be Newton's: there H is the Hessian itself, wherever it is positive
// definite and its step, of a root mean square up to kShortStep, is short.
constexpr int kHessianShares = 3;
constexpr double kModelLeft = 1.0 / 3, kShortStep = 0.1;
JPMAP_SHARED float hessian_share(int i) { return 1.0f / static_cast<float>(1 << i); }
JPMAP_SHARED bool is_short(double squared, int64_t k) {
  return squared <= kShortStep * kShortStep * static_cast<double>(k);
}

// The root mean square of Newton's step up to which it ends a descent, if f falls by it: the next
// one is of the order of its square, and so is what it would still move the code by.
JPMAP_SHARED double longest_last_step(double tolerance) {
  return fmin(30 * tolerance, sqrt(tolerance / 10));
}

// Whether Newton's step is the last one. Only where H is the Hessian itself.
JPMAP_SHARED bool is_last_step(float share, double size, double tolerance) {
  return share == 1.0f && size <= longest_last_step(tolerance);
}

// A descent is on its way to a known minimum where its Newton step has a root mean square of up to
// kBackStep and ends nearer to it than kNear of its length.
constexpr double kBackStep = 0.3, kNear = 0.5;

// Whether it is, by the squares of the step and of what lies between its end and the minimum, whose
// numbers are NaN where none is known. Only where H is the Hessian itself.
JPMAP_SHARED bool leads_back(float share, double squared, double apart, int64_t k) {
  return share == 1.0f && squared <= kBackStep * kBackStep * static_cast<double>(k) &&
         apart <= kNear * kNear * squared;
}

// Bytes of shared memory for k unknowns: the lower triangle in double, row after row, and two
// vectors. The largest system takes 68 kB, which every device of compute capability 8.0 and up has.
inline int64_t damped_shared_memory(int64_t k) { return 8 * (k * (k + 1) / 2 + 2 * k); }

}  // namespace jpmap
