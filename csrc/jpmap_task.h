// A task of JPMAP: one image from one start. What is to be done next, and what came of it.
//
// These are the rules of jpmap_fast/algorithms/step.py and joint.py at one beta, without a number
// of the image itself: a worker does what a task asks for, tells it what it found, and is told the
// next work. Workers of the CPU and of a GPU share them. An iteration of a task is
//
//   kEncode             the code mu_phi(x), while the encoder is asked
//     kWeigh            candidate 1: its best x and J1, while iterations < n1
//     kDescendFromCode  candidate 2, while iterations < n2, if no other has been taken; given up
//                       where it leads back to a z that a descent has converged to
//   kDescendFromState   candidate 3, if neither has been taken and z is at no minimum
//
// each taken where J1 falls. Where nothing is left to do the task ends; kProve comes before where
// an iteration stood still and no descent said that it had converged.
#pragma once

#include <math.h>

#include <cstdint>

#include "host_device.h"

namespace jpmap {

// Codes of jpmap_fast/algorithms/outcome.py, which a test compares.
enum TaskStatus : int {
  kRunning = -1,
  kConverged = 0,
  kIterationLimit = 1,
  kToleranceLimit = 2,
  kFailed = 5,
  kCovered = 7
};

enum class TaskWork { kEncode, kWeigh, kDescendFromCode, kDescendFromState, kProve, kEnd };

struct TaskSettings {
  int64_t n1, n2;          // iterations in which candidates 1 and 2 are proposed
  int64_t max_iterations;  // >= 1
  double tolerance;        // an iteration that moves an image by less stands still
  bool again;              // a descent that was cut short is taken up again
  bool covered;            // another start descends from z where the encoder's has x = A^T y
};

// What a Newton step may promise of J1 where an image that stands still has converged.
constexpr double kNothingLeft = 1e-4;

struct Task {
  double objective;  // J1 of the state in the working precision
  int64_t iterations;
  int64_t candidates[3];  // how often each was taken
  int status;
  int trying;         // the candidate at work, 1 to 3
  bool rejected;      // candidate 2 was tried in this iteration, and J1 did not fall
  bool encoder_open;  // candidates 1 and 2 are still proposed
  bool solved;        // z is where a descent converged
};

JPMAP_SHARED bool is_finite(double value) { return value - value == 0; }

// Whether a candidate is to be taken.
JPMAP_SHARED bool falls(double found, double before) { return found < before; }

JPMAP_SHARED bool asks_encoder(const Task& t, const TaskSettings& s) {
  return t.encoder_open && t.iterations < (s.n1 > s.n2 ? s.n1 : s.n2);
}

JPMAP_SHARED TaskWork tries(Task& t, int candidate) {
  t.trying = candidate;
  if (candidate == 1) return TaskWork::kWeigh;
  return candidate == 2 ? TaskWork::kDescendFromCode : TaskWork::kDescendFromState;
}

// Whether the descent at work is given up where it leads back to the state.
JPMAP_SHARED bool knows_minimum(const Task& t) { return t.trying == 2 && t.solved; }

JPMAP_SHARED TaskWork begin_iteration(Task& t, const TaskSettings& s) {
  t.rejected = false;
  return asks_encoder(t, s) ? TaskWork::kEncode : tries(t, 3);
}

JPMAP_SHARED TaskWork ends(Task& t, int status) {
  t.status = status;
  return TaskWork::kEnd;
}

// Closes an iteration that took candidate `taken`, 0 for none, and moved the image by `distance`.
JPMAP_SHARED TaskWork end_iteration(Task& t, const TaskSettings& s, int taken, double distance) {
  const bool still = taken == 0 || distance < s.tolerance;
  // An encoder step that no longer moves says nothing about J1: go on by descent.
  if (t.rejected || (still && taken == 1)) t.encoder_open = false;
  ++t.iterations;
  if (taken > 0) ++t.candidates[taken - 1];
  if (!is_finite(t.objective)) return ends(t, kFailed);
  // What is left for it is the descent from its first z, which another start makes.
  if (t.rejected && t.iterations == 1 && s.covered) return ends(t, kCovered);
  const bool stands = still && taken != 1;
  // Where a descent has converged there is nothing to descend again.
  const bool done = !asks_encoder(t, s) && (t.solved || !s.again);
  if (!stands && !done && t.iterations < s.max_iterations) return begin_iteration(t, s);
  if (t.solved) return ends(t, kConverged);
  return stands && s.again ? TaskWork::kProve : ends(t, kIterationLimit);
}

// A task begins with J1 of its first x and z. `encoder` says whether the encoder proposes to it.
JPMAP_SHARED TaskWork begin_task(Task& t, const TaskSettings& s, bool encoder, double objective) {
  t.objective = objective;
  t.iterations = 0;
  t.candidates[0] = t.candidates[1] = t.candidates[2] = 0;
  t.status = kRunning;
  t.encoder_open = encoder;
  t.solved = false;
  return begin_iteration(t, s);
}

// The encoder has said mu_phi(x).
JPMAP_SHARED TaskWork encoded(Task& t, const TaskSettings& s) {
  return tries(t, t.iterations < s.n1 ? 1 : 2);
}

// The candidate that was tried has J1 = `objective` and is `distance` from the state; `converged`
// says that a descent ended there by itself. A worker takes it where `falls` says so.
JPMAP_SHARED TaskWork weighed(Task& t, const TaskSettings& s, double objective, double distance,
                              bool converged) {
  const int candidate = t.trying;
  const bool better = falls(objective, t.objective);
  // A descent from where the image stands that finds nothing lower speaks of that place.
  if (better || candidate == 3) t.solved = candidate != 1 && converged;
  if (better) {
    t.objective = objective;
    return end_iteration(t, s, candidate, distance);
  }
  if (candidate == 1 && t.iterations < s.n2) return tries(t, 2);
  t.rejected = t.rejected || candidate == 2;
  // A descent that was cut short, or the one that another start makes.
  const bool left = t.iterations == 0 ? t.rejected && s.covered : !s.again;
  const bool stays = candidate == 3 || t.solved || left;
  return stays ? end_iteration(t, s, 0, 0) : tries(t, 3);
}

// A Newton step at the state promises to lower J1 by `promised`.
JPMAP_SHARED void proved(Task& t, double promised) {
  const double size = t.objective < 0 ? -t.objective : t.objective;
  t.status = promised <= kNothingLeft * size ? kConverged : kToleranceLimit;
}

// How a start ended.
struct TaskEnd {
  double objective;
  int status;
  int64_t start;
};

// What starts are compared by: infinite where it is no number or another start has gone on instead.
JPMAP_SHARED double comparable(const TaskEnd& end) {
  return end.status == kCovered || !is_finite(end.objective) ? double{INFINITY} : end.objective;
}

// Of two starts of an image whether the first is its end: by J1, then the better status, then the
// order of starts. Whoever ends first, the same one is kept.
JPMAP_SHARED bool precedes(const TaskEnd& one, const TaskEnd& other) {
  const double a = comparable(one), b = comparable(other);
  if (a != b) return a < b;
  return one.status != other.status ? one.status < other.status : one.start < other.start;
}

}  // namespace jpmap
