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

// Eight lanes have a system, the matrix with one of the shares of the Hessian or, the last eight,
// with none: a lane a row of it in registers, the same row damped, and less a part of the matrix.
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
    static_assert(kHessianShares + 1 == 4);
    const int i = group_.lane, k = system.k, mine = lane() / 8;
    unknowns_ = k;
    const bool inside = i < k;
    const float part = mine < kHessianShares ? hessian_share(mine) : 0.0f;
    // Rows and columns beyond k are those of the identity.
    const auto element = [&](int c, double less) {
      const bool here = inside && c < k;
      const int at = here ? max(i, c) * k + min(i, c) : 0;
      const double value = system.at(at, part, less);
      return here ? value : (i == c ? 1.0 : 0.0);
    };
    Rows rows;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      rows.of[kNewton][c] = element(c, 0);
      rows.of[kFirm][c] = element(c, kModelLeft);
    }
    const double diagonal = element(i, 0), g = inside ? system.gradient[i] : 0.0;
    const double own = inside ? diagonal : 0.0;
    // Where damping is not in its units, the largest element can wait for the sums below.
    mine_.damping = damping.relative ? damping.of(group_.largest(own)) : damping.value;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      rows.of[kDamped][c] = rows.of[kNewton][c] + (c == i ? mine_.damping : 0.0);
    }
    rows.right[kNewton] = rows.right[kDamped] = g;
    eliminate(rows);
    firm_ = __ballot_sync(kWarp, rows.positive[kFirm]);
    positive_ = __ballot_sync(kWarp, rows.positive[kNewton]);
    damped_positive_ = __ballot_sync(kWarp, rows.positive[kDamped]);
    mine_.newton = rows.right[kNewton];
    mine_.x = rows.right[kDamped];
    double decrement = 0, squared = 0, promised = 0;
    if (inside) {
      decrement += g * mine_.newton;
      squared += mine_.newton * mine_.newton;
      promised += 0.5 * mine_.x * (mine_.damping * mine_.x + g);
    }
    mine_.largest = group_.largest(own);
    mine_.decrement = group_.sum(decrement);
    mine_.squared = group_.sum(squared);
    mine_.promised = group_.sum(promised);
  }

  __device__ void choose(float share) {
    this->share = share;
    chosen_ = 8 * kHessianShares;
#pragma unroll
    for (int i = 0; i < kHessianShares; ++i) {
      if (share == hessian_share(i)) chosen_ = 8 * i;
    }
    largest = from(chosen_, mine_.largest);
    damping = from(chosen_, mine_.damping);
  }

  __device__ NewtonStep newton(bool second_order) {
    float share = 0.0f;
#pragma unroll
    for (int i = kHessianShares - 1; i >= 0; --i) {
      if (second_order && (firm_ >> 8 * i & 1)) share = hessian_share(i);
    }
    const double squared = from(0, mine_.squared);  // of the Hessian's own step
    if (second_order && (positive_ & 1) && is_short(squared, unknowns_)) share = 1.0f;
    choose(share);
    return {(positive_ >> chosen_ & 1) != 0, from(chosen_, mine_.decrement),
            from(chosen_, mine_.squared)};
  }

  __device__ void undamped() { step_ = from(chosen_ + group_.lane, mine_.newton); }

  __device__ bool damped() {
    step_ = from(chosen_ + group_.lane, mine_.x);
    promised = from(chosen_, mine_.promised);
    return damped_positive_ >> chosen_ & 1;
  }

  // Asked for in lane c, which has it.
  __device__ double step(int) const { return step_; }

 private:
  static constexpr unsigned kWarp = LaneGroup<8>::kWarp;
  const LaneGroup<8> group_;

  // Of the lane's own system; of its solutions, undamped and damped, the lane's elements.
  struct {
    double largest, damping, newton, x, decrement, squared, promised;
  } mine_;
  unsigned firm_, positive_, damped_positive_;  // a bit a lane
  int chosen_, unknowns_;                       // the first lane of the chosen H
  double step_;

  // A lane's rows of its system, with their right sides, then solutions; of what is only to be
  // positive definite there are none.
  enum { kNewton, kDamped, kFirm };
  struct Rows {
    double of[3][8], right[2];
    bool positive[3];
  };

  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ double from(int lane, double value) { return __shfl_sync(kWarp, value, lane); }

  // By Gauss and Jordan's elimination, whose pivots are positive exactly where the matrix is
  // positive definite. All at a time: one alone would have every instruction wait for the last.
  __device__ void eliminate(Rows& rows) {
    double inverse[2] = {1, 1};
    rows.positive[kNewton] = rows.positive[kDamped] = rows.positive[kFirm] = true;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const bool own = group_.lane == j;
#pragma unroll
      for (int s = 0; s < 3; ++s) {
        double (&a)[8] = rows.of[s];
        // All that is to be had from the row before the division that everything waits for.
        const double pivot = group_.from(j, a[j]);
        double row[8];
#pragma unroll
        for (int c = j + 1; c < 8; ++c) row[c] = group_.from(j, a[c]);
        const double target = s == kFirm ? 0.0 : group_.from(j, rows.right[s % 2]);
        rows.positive[s] = rows.positive[s] && pivot > 0;
        const double over = reciprocal(pivot);
        if (own && s != kFirm) inverse[s % 2] = over;
        const double factor = own ? 0.0 : a[j] * over;
#pragma unroll
        for (int c = j + 1; c < 8; ++c) a[c] -= factor * row[c];
        if (s != kFirm) rows.right[s % 2] -= factor * target;
      }
    }
    rows.right[kNewton] *= inverse[kNewton];
    rows.right[kDamped] *= inverse[kDamped];
  }
};

}  // namespace jpmap
