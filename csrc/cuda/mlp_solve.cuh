// One image's descent between two evaluations: takes or refuses a trial and sets the next.
#pragma once

#include <cstdint>

#include "cuda/four_systems.cuh"
#include "cuda/one_system.cuh"

namespace jpmap {

struct MlpSettings {
  double tolerance, initial_damping;
  int64_t max_steps;
  bool second_order;
  bool evaluate;       // stop at the starting point and write its system out
  const bool* active;  // [B], null for all
  const float* known;  // [B][k], null for none
};

struct MlpResults {
  float* z;
  double* objective;
  int64_t* steps;
  bool* converged;
  float* output;
  double* gradient;
  double* matrix;
  double* hessian;
};

struct MlpSlot {
  double value;  // f at z
  double trial;  // f at the trial code
  double damping, growth, promised;
  long long steps;
  float share;  // of the Hessian in the model
  bool fresh;   // its first trial is its starting point, taken as it is
  bool last;    // its trial is Newton's own step, with which it ends where f falls

  __device__ void begin() {
    steps = 0;
    fresh = true;
    last = false;
    growth = 2;
    share = 0.0f;
  }

  __device__ bool accepts() const { return fresh || trial < value; }

  // Of the next trial, by the gain ratio of the one before: Nielsen's rule.
  __device__ Damping next_damping(double initial) const {
    if (fresh) return {initial, true};
    if (!accepts()) return {damping * growth, false};
    const double gain = 2 * (value - trial) / promised - 1;
    return {damping * fmin(fmax(1 - gain * gain * gain, 1.0 / 3), 2.0), false};
  }

  // The trial is counted and taken or refused.
  __device__ void pass() {
    const bool accepted = accepts();
    growth = accepted ? 2 : 2 * growth;
    if (accepted) value = trial;
    if (!fresh) ++steps;
    fresh = false;
  }
};

// Where one image's numbers stand.
struct MlpSolve {
  MlpSlot* slot;
  long long* image;  // set to -1 when the image is finished
  float *z, *trial;
  MlpSystem system;    // at the accepted code: at the trial, where that is to be accepted
  const float* known;  // a minimum that it is not to descend to again, null for none
  bool writes;         // whether the solution goes to the results
};

// The known minimum of an image of the batch.
__device__ inline const float* known_of(const MlpSettings& settings, long long image, int k) {
  return settings.known == nullptr ? nullptr : settings.known + image * k;
}

__device__ inline void leave_out(const MlpResults& out, const float* start, long long image,
                                 int k) {
  for (int c = 0; c < k; ++c) out.z[image * k + c] = start[image * k + c];
  out.objective[image] = __longlong_as_double(0x7ff8000000000000ll);
  out.steps[image] = 0;
  out.converged[image] = false;
}

// By how much a Newton step lowers f, if its model is right. NaN where there is no step. Every lane
// gets it.
template <class Algebra>
__device__ inline double newton_promise(const MlpSystem& system, double* scratch) {
  Algebra algebra(system, {0, false}, scratch);
  const NewtonStep newton = algebra.newton(true);
  return newton.solved ? 0.5 * newton.decrement : __longlong_as_double(0x7ff8000000000000ll);
}

// A warp: the solution of a descent that ends to the results, and no descent any more.
__device__ inline void end_descent(const MlpSolve& solve, const MlpResults& out, double value,
                                   long long steps, bool converged) {
  const int lane = threadIdx.x % 32, k = solve.system.k;
  const long long image = *solve.image;
  __syncwarp();  // every lane has read the image
#pragma unroll 1
  for (int c = lane; solve.writes && c < k; c += 32) out.z[image * k + c] = solve.z[c];
  if (lane != 0) return;
  if (solve.writes) {
    out.objective[image] = value;
    out.steps[image] = steps;
    out.converged[image] = converged;
  }
  *solve.image = -1;
}

// A warp: the last trial, f at which is all that is known of it, is taken.
__device__ inline void finish(const MlpSolve& solve, const MlpResults& out) {
  const int lane = threadIdx.x % 32, k = solve.system.k;
  MlpSlot slot = *solve.slot;
#pragma unroll 1
  for (int c = lane; c < k; c += 32) solve.z[c] = solve.trial[c];
  slot.pass();
  end_descent(solve, out, slot.value, slot.steps, true);
}

// A warp: whether Newton's step from the trial leads back to the known minimum.
template <class Algebra>
__device__ __forceinline__ bool leads_back(const MlpSolve& solve, Algebra& algebra,
                                           double squared) {
  if (solve.known == nullptr) return false;
  const int k = solve.system.k;
  algebra.undamped();
  double apart = 0;
#pragma unroll 1
  for (int c = threadIdx.x % 32; c < k; c += 32) {
    const double left = solve.trial[c] - algebra.step(c) - solve.known[c];
    apart += left * left;
  }
  return leads_back(algebra.share, squared, LaneGroup<32>().sum(apart), k);
}

// A warp: takes or refuses the trial of a slot and sets the next, or writes the solution.
template <class Algebra>
__device__ void advance(const MlpSolve& solve, const MlpSettings& settings, const MlpResults& out,
                        double* scratch) {
  const int lane = threadIdx.x % 32, k = solve.system.k;
  const double resolution = 8.0 * 1.1920928955078125e-7;
  MlpSlot slot = *solve.slot;
  if (slot.last && slot.accepts()) return finish(solve, out);
  slot.last = false;  // refused, it goes on damped
  float *z = solve.z, *trial = solve.trial;
  Algebra algebra(solve.system, slot.next_damping(settings.initial_damping), scratch);
  const bool accepted = slot.accepts();
  bool finite = true, done = false, back = false;
  slot.pass();
  if (accepted) {
#pragma unroll 1
    for (int c = lane; c < k; c += 32) z[c] = trial[c];
    const NewtonStep newton = algebra.newton(settings.second_order);
    finite = isfinite(slot.value) && newton.solved && isfinite(newton.squared);
    const double size = sqrt(newton.squared / k);
    done = size <= settings.tolerance || newton.decrement <= resolution * fabs(slot.value);
    slot.last = is_last_step(algebra.share, size, settings.tolerance);
    back = leads_back(solve, algebra, newton.squared);
  } else {
    algebra.choose(slot.share);
  }
  slot.share = algebra.share;
  slot.damping = algebra.damping;
  // A damping this large moves z by less than its last digit: no descent is left.
  const bool stuck = slot.damping > algebra.largest / resolution;
  bool stop = !finite || done || stuck || back || slot.steps >= settings.max_steps;
  if (!stop && slot.last) algebra.undamped();
  if (!stop && !slot.last) stop = !algebra.damped();
  __syncwarp();  // every lane has read the slot
  if (stop) return end_descent(solve, out, slot.value, slot.steps, finite && (done || stuck));
#pragma unroll 1
  for (int c = lane; c < k; c += 32) trial[c] = static_cast<float>(z[c] - algebra.step(c));
  slot.promised = slot.last ? 0.0 : algebra.promised;
  if (lane == 0) *solve.slot = slot;
}

}  // namespace jpmap
