// The tasks of a tile on their way to slots, from the queue or from the ring of places where those
// wait that ask the encoder; the encoder; and who weighs in a turn.
#pragma once

#include "cuda/tile_joint.cuh"

namespace jpmap {

// One lane: whether a slot wants its point in this turn. Of a descent's end only the encoder is
// told the image; so a last trial is weighed in the turn that makes it, where others weigh then.
__device__ __forceinline__ bool wants_point(const TileJoint& joint, int slot) {
  const TileTask& held = joint.tasks[slot];
  if (held.phase == TilePhase::kDescend && joint.block.images[slot] >= 0) {
    const MlpSlot& descent = joint.block.slots[slot];
    return descent.last && joint.encodes(held.start) &&
           falls(as_objective(descent.value), held.task.objective);
  }
  return held.phase == TilePhase::kDescend || held.phase == TilePhase::kWeigh || stands_alone(held);
}

// The first warp, a lane a slot: who weighs in this turn. A few do so together.
__device__ __forceinline__ void list_weighers(const TileJoint& joint) {
  const int mine = threadIdx.x;
  const bool asks =
      mine < joint.run.at.images && joint.own.images[mine] >= 0 && wants_point(joint, mine);
  const bool descends = mine < joint.run.at.images && joint.block.images[mine] >= 0;
  const bool others = __any_sync(0xffffffffu, descends);
  const int count = list_slots(asks, joint.own.turn.weighing);
  if (mine == 0) {
    TileTurn& turn = joint.own.turn;
    // Where G is made already and A is diagonal, points cost a pass over their pixels alone.
    const bool cheap =
        joint.run.known == joint.run.decoder.count && joint.run.input.values == nullptr;
    const bool due = cheap || kWeighers * count >= joint.run.at.images ||
                     turn.waited_to_weigh >= kPatience || !others;
    turn.waited_to_weigh = count == 0 || due ? 0 : turn.waited_to_weigh + 1;
    turn.weighers = due ? count : 0;
  }
}

__device__ __forceinline__ int64_t tasks_of(const JointInput& in) { return in.batch * in.starts; }

// Whether the queue has no task left.
__device__ __forceinline__ bool exhausted(const TileJoint& joint) {
  const volatile unsigned long long& next = *joint.run.queue;
  return next >= static_cast<unsigned long long>(tasks_of(joint.run.input));
}

// One lane: write(c, a number of each of the codes [k] in device memory). Several are read before
// any is written, which the compiler may not do by itself.
template <int kCount, class Write>
__device__ __forceinline__ void copy_codes(const float* const (&from)[kCount], int k,
                                           const Write& write) {
  constexpr int kAhead = 8;
  for (int begin = 0; begin < k; begin += kAhead) {
    float v[kAhead][kCount];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int n = 0; n < kCount; ++n) v[i][n] = from[n][min(begin + i, k - 1)];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i < k) write(begin + i, v[i]);
    }
  }
}

// One lane: gives an empty slot the next task of the queue, if there is one.
__device__ __forceinline__ void take_new(const TileJoint& joint, int slot) {
  const JointInput& in = joint.run.input;
  TileTask& held = joint.tasks[slot];
  const unsigned long long next = atomicAdd(joint.run.queue, 1ull);
  if (next >= static_cast<unsigned long long>(tasks_of(in))) return;
  const int64_t image = next / in.starts, start = next % in.starts;
  const int k = joint.run.net.latent;
  joint.own.images[slot] = image;
  held.start = start;
  held.made = false;
  held.published = joint.encodes(start);
  held.phase = held.published ? TilePhase::kBegin : TilePhase::kFirst;
  held.waits = !held.published;
  copy_codes<1>(
      {in.codes + image * in.codes_stride + start * k}, k,
      [&](int c, const float (&v)[1]) { joint.trial(slot)[c] = joint.code(slot)[c] = v[0]; });
}

// One lane: a slot's task to a place, and the other way round once the encoder has told its code.
// Their points are exchanged.
__device__ __forceinline__ void leave_slot(const TileJoint& joint, int slot, TilePlace& place) {
  TileTask& held = joint.tasks[slot];
  const int k = joint.run.net.latent, free = place.task.points[0];
  place.task = held;
  place.image = joint.own.images[slot];
  for (int c = 0; c < k; ++c) place.code[c] = joint.code(slot)[c];
  held.points[0] = free;
  joint.own.images[slot] = -1;
}

__device__ __forceinline__ void take_told(const TileJoint& joint, int slot, TilePlace& place) {
  TileTask& held = joint.tasks[slot];
  TileTask task = place.task;
  const long long image = place.image;
  place.task.points[0] = held.points[0];
  task.points[1] = held.points[1];
  const bool weighs = encoded(task.task, joint.run.settings) == TaskWork::kWeigh;
  task.phase = weighs ? TilePhase::kWeigh : TilePhase::kDescend;
  held = task;
  joint.own.images[slot] = image;
  joint.own.turn.converged[slot] = false;
  copy_codes<2>({place.code, place.told}, joint.run.net.latent, [&](int c, const float (&v)[2]) {
    joint.code(slot)[c] = v[0];
    joint.trial(slot)[c] = v[1];
  });
  if (!weighs) begin_descent(joint, slot);
}

// The first warp, a lane a slot: the empty ones take the tasks that have been told their codes, or
// new ones; what waited begins; and who weighs. Whether the lane's slot has a task.
//
// Told ones come first, so that new ones are taken only where none is left, with less than a full
// ring of others waiting: the tasks of slots and ring are fewer than their places. Were the ring
// full of told ones with every slot asking, nobody could go on.
__device__ __forceinline__ bool take_tasks(const TileJoint& joint) {
  const int mine = threadIdx.x;
  TileTurn& turn = joint.own.turn;
  const bool empty = mine < joint.run.at.images && joint.own.images[mine] < 0;
  const unsigned all = __ballot_sync(0xffffffffu, empty);
  const int rank = __popc(all & ((1u << mine) - 1u)), told = min(__popc(all), turn.told);
  if (empty && rank < told) take_told(joint, mine, joint.place(rank));
  if (empty && rank >= told) take_new(joint, mine);
  const bool works = mine < joint.run.at.images && joint.own.images[mine] >= 0;
  if (works && joint.tasks[mine].waits) {
    joint.tasks[mine].waits = false;
    begin_descent(joint, mine);
  }
  __syncwarp();  // every lane has read the turn
  if (mine == 0) {
    turn.first = (turn.first + told) % joint.run.at.ring;
    turn.told -= told;
  }
  __syncwarp();
  list_weighers(joint);
  return works;
}

// Who asks the encoder leaves its slot, and where enough do, or where nobody does anything else, it
// is asked: what follows then, `encode` sees to. Whether the thread's slot has a task, or a place.
__device__ __forceinline__ bool fill_tasks(const TileJoint& joint) {
  const int mine = threadIdx.x, images = joint.run.at.images, ring = joint.run.at.ring;
  if (mine >= 32) return false;
  TileTurn& turn = joint.own.turn;
  const bool asks =
      mine < images && joint.own.images[mine] >= 0 && joint.tasks[mine].phase == TilePhase::kEncode;
  const bool works = mine < images && joint.own.images[mine] >= 0 && !asks;
  const unsigned all = __ballot_sync(0xffffffffu, asks);
  const int rank = __popc(all & ((1u << mine) - 1u)), held = turn.told + turn.waiting;
  if (asks && held + rank < ring) leave_slot(joint, mine, joint.place(held + rank));
  const int waiting = turn.waiting + min(__popc(all), ring - held);
  const bool left = !__any_sync(0xffffffffu, exhausted(joint)),
             patient = left || turn.waited < kPatience;
  const bool others = __any_sync(0xffffffffu, works) || turn.told > 0 || left;
  const bool many =
      waiting >= min(ring, MlpTaskLayout::kRows) || (!left && kEncoders * waiting >= images);
  const bool due = waiting > 0 && (many || !patient || !others);
  __syncwarp();  // places are written, and every lane has read the turn
  if (due && mine < waiting) turn.encoding[mine] = joint.place(turn.told + mine).task.points[0];
  if (mine == 0) {
    turn.waiting = waiting;
    turn.encoders = due ? waiting : 0;
    turn.waited = waiting == 0 || due || left ? 0 : turn.waited + 1;
  }
  __syncwarp();
  return due || take_tasks(joint) || waiting > 0;
}

// The codes mu_phi(x) of the states that are to be encoded, for empty slots to go on from. Ends
// behind a barrier.
__device__ __forceinline__ void encode(const TileJoint& joint) {
  const MlpTileView& tile = joint.tile();
  TileTurn& turn = joint.own.turn;
  const int encoders = turn.encoders, k = tile.net.latent, pixels = joint.run.at.pixels;
  for (int begin = 0; begin < encoders; begin += MlpTaskLayout::kRows) {
    const int rows = min(MlpTaskLayout::kRows, encoders - begin);
    const int* points = turn.encoding + begin;
    gather(tile, rows, pixels, 0,
           [&](int row, int j) { return load2(joint.point(points[row]) + j); });
    __syncthreads();  // gathered
    const float* codes = tile.floats(pass(tile, joint.run.encoder, 0, rows, 0));
    const int stride = split_stride(joint.run.encoder.layers[joint.run.encoder.count - 1].stride);
    for (int i = threadIdx.x; i < rows * k; i += kMlpThreads) {
      joint.place(turn.told + begin + i / k).told[i % k] = codes[i / k * stride + i % k];
    }
    __syncthreads();  // told
  }
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) {
      turn.told += encoders;
      turn.waiting = 0;
    }
    __syncwarp();
    take_tasks(joint);
  }
  __syncthreads();  // taken
}

}  // namespace jpmap
