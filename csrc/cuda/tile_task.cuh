// How the tasks of a tile go on, from turn to turn: jpmap_task.h decides, by what their points and
// descents come to.
#pragma once

#include "cuda/tile_point.cuh"

namespace jpmap {

// One lane: a slot's next work. `here` says that the network has passed at its trial code and that
// this is where the state is: a descent from there begins in this turn.
__device__ __forceinline__ void go_on(const TileJoint& joint, int slot, TaskWork work, bool here) {
  TileTask& held = joint.tasks[slot];
  if (work == TaskWork::kEnd) {
    held.phase = TilePhase::kEnd;
    return;
  }
  if (work == TaskWork::kEncode) {
    held.phase = TilePhase::kEncode;
    return;
  }
  held.phase = work == TaskWork::kProve ? TilePhase::kProve : TilePhase::kDescend;
  if (here || work == TaskWork::kDescendFromCode) {
    begin_descent(joint, slot);
    return;
  }
  joint.try_code(slot, joint.code(slot));
  held.waits = true;
}

// One lane: the candidate becomes the state.
__device__ __forceinline__ void take_candidate(const TileJoint& joint, int slot, float gap,
                                               bool given) {
  TileTask& held = joint.tasks[slot];
  const int before = held.points[0];
  held.points[0] = held.points[1];
  held.points[1] = before;
  held.gap = gap;
  held.made = true;
  held.published = given;
  joint.keep_trial(slot);
}

// One lane: the task is told what its candidate has come to.
__device__ __forceinline__ void judge_candidate(const TileJoint& joint, int slot,
                                                const WeighedPoint& found) {
  TileTask& held = joint.tasks[slot];
  const TaskSettings& settings = joint.run.settings;
  if (held.phase == TilePhase::kBegin) {
    take_candidate(joint, slot, found.gap, held.published);
    go_on(joint, slot, begin_task(held.task, settings, true, found.objective), true);
    return;
  }
  if (held.phase == TilePhase::kState) {
    take_candidate(joint, slot, found.gap, false);
    joint.try_code(slot, joint.block.z + slot * joint.run.net.latent);
    held.phase = TilePhase::kDescend;
    return;
  }
  if (held.phase == TilePhase::kRemake) {
    take_candidate(joint, slot, found.gap, held.published);
    held.task.objective = found.objective;
    held.phase = TilePhase::kWrite;
    return;
  }
  const bool taken = falls(found.objective, held.task.objective);
  const TaskWork work =
      weighed(held.task, settings, found.objective, found.moved, joint.own.turn.converged[slot]);
  if (taken) take_candidate(joint, slot, found.gap, false);
  go_on(joint, slot, work, taken);
}

// One lane: what a descent has come to. f is J1 of its end with the best x: where that does not
// fall nobody asks for the image, and of a start without the encoder not before the task has ended,
// but to see whether a descent that was cut short stands still.
__device__ __forceinline__ void close_descent(const TileJoint& joint, int slot) {
  TileTask& held = joint.tasks[slot];
  const bool converged = joint.own.turn.converged[slot];
  const float found = as_objective(joint.own.turn.value[slot]);
  const bool taken = falls(found, held.task.objective);
  if (taken && (joint.encodes(held.start) || (!converged && joint.run.settings.again))) {
    if (held.made) return;  // to be weighed
    held.phase = TilePhase::kState;
    joint.try_code(slot, joint.code(slot));
    return;
  }
  const TaskWork work = weighed(held.task, joint.run.settings, found, 0, converged);
  if (taken) {
    held.made = held.published = false;
    joint.keep_trial(slot);
  }
  go_on(joint, slot, work, false);
}

// One lane: an ended task leaves its image to the start that ends last, which writes the best one:
// what it has not itself it makes of the code.
__device__ __forceinline__ void conclude(const TileJoint& joint, int slot) {
  TileTask& held = joint.tasks[slot];
  const int64_t image = joint.own.images[slot], starts = joint.run.input.starts;
  const int k = joint.run.net.latent;
  bool own = true;
  if (starts > 1) {
    const bool last = note_end(joint.run.ends, image, held.start, starts, held.task, held.published,
                               joint.code(slot), k);
    if (!last) {
      joint.own.images[slot] = -1;
      return;
    }
    own = best_end(joint.run.ends, image, starts, held.task, held.published, joint.trial(slot),
                   k) == held.start;
  } else {
    joint.try_code(slot, joint.code(slot));
  }
  held.phase = own && held.made ? TilePhase::kWrite : TilePhase::kRemake;
}

// A warp a slot: the state to the results.
__device__ __forceinline__ void write_image(const TileJoint& joint, int slot) {
  const JointOutput& out = joint.run.out;
  const TileTask& held = joint.tasks[slot];
  const int64_t image = joint.own.images[slot], n = joint.run.input.pixels;
  const int k = joint.run.net.latent, lane = this_lane();
  const float *x = joint.x(slot, 0), *decoded = joint.decoded(slot, 0);
  // Reads ahead of the writes, which the compiler may not move them past.
  constexpr int kAhead = 8;
  for (int64_t begin = lane; begin < n; begin += 32 * kAhead) {
    float pixel[kAhead], here[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t j = begin + 32 * i;
      pixel[i] = j < n ? x[j] : 0.0f;
      here[i] = j < n ? decoded[j] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t j = begin + 32 * i;
      if (j >= n) break;
      out.x[image * n + j] = pixel[i];
      out.decoded[image * n + j] = here[i];
    }
  }
  for (int c = lane; c < k; c += 32) out.z[image * k + c] = joint.code(slot)[c];
  if (lane < 3) out.candidates[image * 3 + lane] = held.task.candidates[lane];
  if (lane == 0) {
    out.objective[image] = static_cast<float>(held.task.objective);
    out.gap[image] = held.gap;
    out.status[image] = held.task.status;
    out.iterations[image] = held.task.iterations;
  }
}

// A warp: goes on with a slot whose descent or task has ended, which may write its image and leave
// the slot empty.
__device__ __forceinline__ void close_work(const TileJoint& joint, int slot) {
  const TileTask& held = joint.tasks[slot];
  __syncwarp();  // the lane that knows has told
  if (this_lane() == 0) {
    const bool ended = held.phase == TilePhase::kDescend && !held.waits;
    if (ended && joint.block.images[slot] < 0) close_descent(joint, slot);
    if (held.phase == TilePhase::kEnd) conclude(joint, slot);
  }
  __syncwarp();  // the phase is known
  if (held.phase != TilePhase::kWrite) return;
  write_image(joint, slot);
  __syncwarp();  // every lane has read whose image it is
  if (this_lane() == 0) joint.own.images[slot] = -1;
}

// Whether the trial of a slot that weighs is its candidate: it is, unless it is the last trial of a
// descent that is better off where it was. Every lane of a warp says the same.
__device__ __forceinline__ bool has_candidate(const TileJoint& joint, int slot, int64_t image) {
  if (joint.block.images[slot] < 0) return true;
  return objective(joint.tile(), joint.run.data, slot, image) < joint.block.slots[slot].value;
}

// Completes the points of the slots that weigh, and sends their tasks on.
__device__ __forceinline__ void weigh(const TileJoint& joint) {
  const int weighers = joint.own.turn.weighers, lane = this_lane();
  for (int begin = 0; begin < weighers; begin += MlpTaskLayout::kRows) {
    const int rows = min(MlpTaskLayout::kRows, weighers - begin);
    const int* slots = joint.own.turn.weighing + begin;
    int area;
    const DecodedRows decoded = decode(joint, slots, rows, area);
    const bool diagonal = joint.run.input.values == nullptr;
    const float* added = diagonal ? nullptr : project(joint, slots, rows, decoded, area);
    for (int row = this_warp(); row < rows; row += kMlpWarps) {
      const int slot = slots[row];
      const int64_t image = joint.own.images[slot];
      if (has_candidate(joint, slot, image)) {
        const bool given = published(joint.tasks[slot]);
        double sums[kPointSums] = {};
        if (diagonal) {
          update_slot(joint, slot, decoded.row(joint, row, slot), sums);
        } else {
          project_slot(joint, row, slot, added, sums);
        }
        if (diagonal) sums[0] = group_sum<32>(sums[0]);
        sums[1] = group_sum<32>(sums[1]);
        sums[2] = group_sum<32>(sums[2]);
        __syncwarp();
        if (lane == 0) {
          if (joint.block.images[slot] >= 0) {
            joint.block.images[slot] = -1;
            joint.own.turn.converged[slot] = true;
          }
          judge_candidate(
              joint, slot,
              weighed_point(joint.run.input, joint.run.data.constant, image, given, sums,
                            joint.trial(slot), joint.code(slot), joint.run.net.latent));
        }
        close_work(joint, slot);
      }
    }
    __syncthreads();  // weighed
  }
}

// The first warp, a lane a slot: whose trials are accepted, whose first states they are, and
// whether a system is to be proved.
__device__ __forceinline__ void choose_trials(const TileJoint& joint) {
  choose(joint.block, joint.run.data, joint.own.images);
  if (threadIdx.x >= 32) return;
  const int i = threadIdx.x;
  if (i < joint.run.at.images && joint.block.images[i] >= 0 &&
      joint.tasks[i].phase == TilePhase::kFirst) {
    // Its work is the descent that it is at.
    begin_task(joint.tasks[i].task, joint.run.settings, false,
               as_objective(joint.block.slots[i].trial));
    joint.tasks[i].phase = TilePhase::kDescend;
  }
  const bool mine = i < joint.run.at.images && joint.block.images[i] >= 0 &&
                    joint.tasks[i].phase == TilePhase::kProve;
  const bool any = __any_sync(0xffffffffu, mine);
  if (i == 0) joint.own.turn.proves = any;
}

// A warp a slot: the descents' next trials, and the tasks' ends where they were proved.
template <class Algebra>
__device__ __forceinline__ void advance_tasks(const TileJoint& joint) {
  MlpResults out{};
  out.z = joint.tile().trial;
  out.objective = joint.own.turn.value;
  out.steps = joint.own.turn.steps;
  out.converged = joint.own.turn.converged;
  each_solve<Algebra>(joint.block, [&](int slot, MlpSolve solve, double* scratch) {
    TileTask& held = joint.tasks[slot];
    if (held.phase != TilePhase::kProve) {
      if (knows_minimum(held.task)) solve.known = joint.code(slot);
      advance<Algebra>(solve, joint.run.descent, out, scratch);
      close_work(joint, slot);
      return;
    }
    const double promised = newton_promise<Algebra>(solve.system, scratch);
    __syncwarp();  // every lane has read the phase
    if (this_lane() == 0) {
      proved(held.task, promised);
      held.phase = TilePhase::kEnd;
      *solve.image = -1;
    }
    close_work(joint, slot);
  });
}

}  // namespace jpmap
