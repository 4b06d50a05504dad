// A damped step for up to eight unknowns: all systems that may be asked for at once.
#pragma once

#include "cuda/damped_step.cuh"

namespace jpmap {

// 1 / x to the last digit or so for x within the range of float, in a third of a division's time.
__device__ inline double reciprocal(double x) {
  double r = __frcp_rn(static_cast<float>(x));
  r = fma(r, fma(-x, r, 1.0), r);
  return fma(r, fma(-x, r, 1.0), r);
}

// Eight lanes have a system, a lane a row of it in registers.
//   lanes 0 ..   the matrix with the Hessian
//   lanes 8 ..   the same, damped
//   lanes 16 ..  the matrix alone
//   lanes 24 ..  the same, damped
class FourSystems {
 public:
  static constexpr int kMost = 8;  // unknowns

  __host__ __device__ static constexpr int scratch(int) { return 0; }

  // Chosen.
  float share;
  double largest, damping;

  // Damped.
  double promised;

  __device__ FourSystems(const MlpSystem& system, const Damping& damping, double*) {
    const int i = group_.lane, k = system.k;
    const bool inside = i < k, damped = lane() % 16 >= 8;
    const float part = lane() < 16 ? 1.0f : 0.0f;  // of the Hessian
    // Rows and columns beyond k are those of the identity.
    const auto element = [&](int c) {
      const bool here = inside && c < k;
      const int at = here ? max(i, c) * k + min(i, c) : 0;
      const double value = system.at(at, part);
      return here ? value : (i == c ? 1.0 : 0.0);
    };
    double row[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) row[c] = element(c);
    const double diagonal = element(i), g = inside ? system.gradient[i] : 0.0;
    const double own = inside ? diagonal : 0.0;
    // Where damping is not in its units, the largest element can wait for the sums below.
    mine_.damping = damping.relative ? damping.of(group_.largest(own)) : damping.value;
    const double corner = damped ? diagonal + mine_.damping : diagonal;
#pragma unroll
    for (int c = 0; c < 8; ++c) row[c] = c == i ? corner : row[c];
    const bool positive = eliminate(row, g);
    positive_ = __ballot_sync(kWarp, positive);
    double decrement = 0, squared = 0, promised = 0;
    if (inside) {
      const double x = mine_.x;
      decrement += g * x;
      squared += x * x;
      promised += 0.5 * x * (mine_.damping * x + g);
    }
    mine_.largest = group_.largest(own);
    mine_.decrement = group_.sum(decrement);
    mine_.squared = group_.sum(squared);
    mine_.promised = group_.sum(promised);
  }

  __device__ void choose(float share) {
    this->share = share;
    largest = from(undamped(), mine_.largest);
    damping = from(undamped(), mine_.damping);
  }

  __device__ NewtonStep newton(bool second_order) {
    choose(second_order && positive(0) ? 1.0f : 0.0f);
    return {positive(undamped()), from(undamped(), mine_.decrement),
            from(undamped(), mine_.squared)};
  }

  __device__ bool damped() {
    const int first = undamped() + 8;
    step_ = from(first + group_.lane, mine_.x);
    promised = from(first, mine_.promised);
    return positive(first);
  }

  // Asked for in lane c, which has it.
  __device__ double step(int) const { return step_; }

 private:
  static constexpr unsigned kWarp = LaneGroup<8>::kWarp;
  const LaneGroup<8> group_;

  // Of the lane's own system; of its solution the lane's element.
  struct {
    double largest, damping, x, decrement, squared, promised;
  } mine_;
  unsigned positive_;  // a bit a lane
  double step_;

  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ double from(int lane, double value) { return __shfl_sync(kWarp, value, lane); }
  __device__ bool positive(int lane) const { return positive_ >> lane & 1; }

  // The first lane of the chosen H.
  __device__ int undamped() const { return share == 0.0f ? 16 : 0; }

  // By Gauss and Jordan's elimination, whose pivots are positive exactly where the matrix is
  // positive definite.
  __device__ bool eliminate(double (&a)[8], double right) {
    double inverse = 1;
    bool positive = true;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      // All that is to be had from the row before the division that everything waits for.
      const double pivot = group_.from(j, a[j]);
      double row[8];
#pragma unroll
      for (int c = j + 1; c < 8; ++c) row[c] = group_.from(j, a[c]);
      const double target = group_.from(j, right);
      positive = positive && pivot > 0;
      const bool own = group_.lane == j;
      const double over = reciprocal(pivot);
      if (own) inverse = over;
      const double factor = own ? 0.0 : a[j] * over;
#pragma unroll
      for (int c = j + 1; c < 8; ++c) a[c] -= factor * row[c];
      right -= factor * target;
    }
    mine_.x = right * inverse;
    return positive;
  }
};

}  // namespace jpmap
