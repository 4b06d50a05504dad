// One image's descent between two evaluations: takes or refuses a trial and sets the next.
#pragma once

#include <cstdint>

#include "cuda/damped_step.cuh"

namespace jpmap {

struct MlpSettings {
  double tolerance, initial_damping;
  int64_t max_steps;
  bool second_order;
  bool evaluate;       // stop at the starting point and write its system out
  const bool* active;  // [B], null for all
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
  float share;  // of the Hessian in the model: 1 where it is positive definite, else 0
  bool fresh;   // its first trial is its starting point, taken as it is

  __device__ void begin() {
    steps = 0;
    fresh = true;
    growth = 2;
    share = 0.0f;
  }
};

// Where one image's numbers stand.
struct MlpSolve {
  MlpSlot* slot;
  long long* image;  // set to -1 when the image is finished
  float *z, *trial;
  const float *gradient, *matrix, *hessian;
  int k;
  bool writes;  // whether the solution goes to the results
};

__device__ inline void leave_out(const MlpResults& out, const float* start, long long image,
                                 int k) {
  for (int c = 0; c < k; ++c) out.z[image * k + c] = start[image * k + c];
  out.objective[image] = __longlong_as_double(0x7ff8000000000000ll);
  out.steps[image] = 0;
  out.converged[image] = false;
}

// By how much a Newton step lowers f, if its model is right: the Hessian, or where that is not
// positive definite the matrix. NaN where there is no step. Every lane gets it.
template <int kLanes>
__device__ inline double newton_promise(const float* matrix, const float* hessian, const float* g,
                                        int k, double* scratch) {
  const LaneGroup<kLanes> group;
  DampedSystem<kLanes> system{group, k, scratch};
  system.load({matrix, hessian, 1.0f});
  bool solved = system.solve(0, g);
  if (!solved) {
    system.load({matrix, hessian, 0.0f});
    solved = system.solve(0, g);
  }
  double decrement = 0;
  for (int c = group.lane; c < k; c += kLanes) decrement += g[c] * scratch[c];
  decrement = group.sum(decrement);
  return solved ? 0.5 * decrement : __longlong_as_double(0x7ff8000000000000ll);
}

// Takes or refuses the trial of a slot and sets the next, or writes the solution.
template <int kLanes>
__device__ void advance(const MlpSolve& solve, const MlpSettings& settings, const MlpResults& out,
                        double* scratch) {
  const LaneGroup<kLanes> group;
  const int k = solve.k;
  const double resolution = 8.0 * 1.1920928955078125e-7;
  const long long image = *solve.image;
  MlpSlot slot = *solve.slot;
  float *z = solve.z, *trial = solve.trial;
  const float *g = solve.gradient, *matrix = solve.matrix, *hessian = solve.hessian;
  double* step = scratch;
  DampedSystem<kLanes> system{group, k, scratch};
  system.load({matrix, hessian, slot.share});
  const bool accepted = slot.fresh || slot.trial < slot.value;
  bool finite = true, done = false;
  if (accepted) {
    for (int c = group.lane; c < k; c += kLanes) z[c] = trial[c];
    slot.share = settings.second_order ? 1.0f : 0.0f;
    system.load({matrix, hessian, slot.share});
    bool solved = system.solve(0, g);
    if (!solved && settings.second_order) {
      slot.share = 0.0f;
      system.load({matrix, hessian, 0.0f});
      solved = system.solve(0, g);
    }
    if (slot.fresh) {
      slot.fresh = false;
      slot.damping = settings.initial_damping * system.largest_diagonal();
    } else {
      const double gain = 2 * (slot.value - slot.trial) / slot.promised - 1;
      slot.damping *= fmin(fmax(1 - gain * gain * gain, 1.0 / 3), 2.0);
      slot.growth = 2;
      ++slot.steps;
    }
    slot.value = slot.trial;
    double decrement = 0, squared = 0;
    for (int c = group.lane; c < k; c += kLanes) {
      decrement += g[c] * step[c];
      squared += step[c] * step[c];
    }
    decrement = group.sum(decrement);
    squared = group.sum(squared);
    finite = isfinite(slot.value) && solved && isfinite(squared);
    done = sqrt(squared / k) <= settings.tolerance || decrement <= resolution * fabs(slot.value);
  } else {
    ++slot.steps;
    slot.damping *= slot.growth;
    slot.growth *= 2;
  }
  // A damping this large moves z by less than its last digit: no descent is left.
  const bool stuck = slot.damping > system.largest_diagonal() / resolution;
  bool stop = !finite || done || stuck || slot.steps >= settings.max_steps;
  if (!stop) stop = !system.solve(slot.damping, g);
  if (stop) {
    for (int c = group.lane; solve.writes && c < k; c += kLanes) out.z[image * k + c] = z[c];
    group.sync();
    if (group.lane == 0) {
      if (solve.writes) {
        out.objective[image] = slot.value;
        out.steps[image] = slot.steps;
        out.converged[image] = finite && (done || stuck);
      }
      *solve.image = -1;
    }
    return;
  }
  double promised = 0;
  for (int c = group.lane; c < k; c += kLanes) {
    promised += 0.5 * step[c] * (slot.damping * step[c] + g[c]);
    trial[c] = static_cast<float>(z[c] - step[c]);
  }
  slot.promised = group.sum(promised);
  if (group.lane == 0) *solve.slot = slot;
}

}  // namespace jpmap
