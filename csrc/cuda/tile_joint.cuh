// A block's tile of tasks of mlp_jpmap: what it keeps beside the descents of mlp_block.cuh, who
// writes and reads it, and which barrier stands between. cuda/mlp_jpmap_tile.cu runs a turn in this
// order; all barriers are __syncthreads, those without a mark are of mlp_tile.cuh:
//
//   barrier     after it
//   filled      empty slots have tasks, what waited begins, and who encodes and weighs is known
//   gathered    * rows that a network is to take, of up to sixteen slots,
//   multiplied  * + once a layer: its sums,
//   activated   * + and its values,
//   told        * + and their codes
//   forward       once a layer; what the first warp made of the codes, too
//   gathered      + as above, for the decoder's layers that the descents' network has not made;
//   opened      * | for A = U H, the rows that H measures;
//   multiplied  * | what H measures;
//   divided     * | gains; multiplied: what they add to x;
//   weighed     * + x, J1 and the next work of up to sixteen tasks; ended ones are written
//   judged        f of all trials
//   chosen        the slots whose trial is accepted
//   backward to added
//   advanced      next trials; the codes where descents have ended
//
// * only where a slot encodes, or weighs.
#pragma once

#include "cuda/joint_ends.cuh"
#include "cuda/mlp_block.cuh"
#include "mlp_task_layout.h"

namespace jpmap {

// Turns that a task waits for others that ask the encoder too.
constexpr int kPatience = 4;

// What a block's threads agree on beside their tasks, in shared memory.
struct TileTurn {
  // fill -> filled, encode (`weighing` again) -> forward -> every thread.
  int encoding[kMlpImages], weighing[kMlpImages];  // slots, in order
  int encoders, weighers;                          // of them

  // The first lane alone. How long one has waited for the encoder.
  int waited;

  // choose -> chosen -> every thread. Whether a system has to say what a Newton step promises.
  bool proves;

  // advance -> advanced -> the next turn's weigh; encode, which keeps `converged` of its own tasks
  // -> told. What a descent comes to beside its code.
  double value[kMlpImages];
  int64_t steps[kMlpImages];
  bool converged[kMlpImages];

  // weigh, one warp a row -> the same warp.
  double data[MlpTaskLayout::kRows];
};

// What a launch works on.
struct TileRun {
  MlpNetwork net;  // of the descents
  MlpTaskLayout at;
  MlpData data;
  MlpSettings descent;
  TaskSettings settings;
  ForwardNetwork decoder, encoder;
  int known;  // first layers of the decoder that the descents' network has as well
  JointInput input;
  JointOutput out;
  JointEnds ends;
  unsigned long long* queue;  // zero at first
  float* workspace;           // [blocks][images][at.slot]
};

// A block's shared memory beside what the layout has.
struct TileShared {
  MlpSlot slots[kMlpImages];
  int accepted[kMlpImages];
  int count;
  float factors[kMlpImages];

  // Of the slots: images that they work on, -1 for none. fill -> filled; weigh, one warp a slot ->
  // weighed.
  long long images[kMlpImages];

  // Of the slots: their own numbers while they descend or prove, -1 otherwise. As `images` of
  // MlpBlock; fill, encode, weigh begin them.
  long long descending[kMlpImages];

  TileTurn turn;
};
static_assert(sizeof(TileShared) <= kMlpReserved - 256);

struct TileJoint {
  const TileRun& run;
  TileShared& own;
  MlpBlock block;

  // Shared, of the slots. fill -> filled; encode, the first warp -> forward; weigh, one warp a slot
  // -> weighed; advance, a warp a slot -> advanced.
  TileTask* tasks;

  // Shared [images][k]. weigh, one warp a slot -> weighed -> weigh of later turns.
  float* state;

  __device__ __forceinline__ TileJoint(const TileRun& of, char* memory, TileShared& shared)
      : run(of),
        own(shared),
        block(block_of(of, memory, shared)),
        tasks(reinterpret_cast<TileTask*>(memory + of.at.tasks)),
        state(reinterpret_cast<float*>(memory + of.at.state_codes)) {}

  __device__ const MlpTileView& tile() const { return block.tile; }
  __device__ float* trial(int slot) const { return tile().trial + slot * run.net.latent; }
  __device__ float* code(int slot) const { return state + slot * run.net.latent; }
  __device__ bool encodes(int64_t start) const { return run.encoder.count > 0 && start == 0; }

  // Device memory, of a slot: its state (`which` 0) or candidate (1).
  __device__ float* x(int slot, int which) const {
    return tile().slot(slot) + run.at.point_x[tasks[slot].state ^ which];
  }
  __device__ float* decoded(int slot, int which) const {
    return tile().slot(slot) + run.at.point_g[tasks[slot].state ^ which];
  }

 private:
  static __device__ __forceinline__ MlpBlock block_of(const TileRun& run, char* memory,
                                                      TileShared& shared) {
    const MlpTaskLayout& at = run.at;
    float* staged = reinterpret_cast<float*>(memory + int64_t{2} * at.area);
    float* codes = staged + 3 * at.staged;
    return {
        {run.net, at, memory, staged, codes, codes + at.codes,
         run.workspace + static_cast<int64_t>(blockIdx.x) * at.images * at.slot, shared.factors},
        shared.slots,
        shared.descending,
        codes + 2 * at.codes,
        shared.accepted,
        &shared.count};
  }
};

// One block: y [16][columns] = x [16][depth] times w [columns][depth]^T, all in shared memory but
// w. One copy of it, whoever calls: the code of a turn is long as it is.
__device__ __forceinline__ void multiply(const float* x, const float* w, int depth, int columns,
                                         float* y) {
  const int y_stride = float_row(columns);
  share_columns(0, columns / 8, [&](auto width, int begin, int end) {
    float_columns<1, decltype(width)::value, true>(
        x, float_row(depth), w, depth, begin, end, [](int, int) { return 0; },
        [&](int row, int column, float v0, float v1, int) {
          store2(y + row * y_stride + column, v0, v1);
        });
  });
}

// Layers [from, count) of a network at `rows` rows in an area: the area of the last one's values.
// From behind one barrier to behind another.
__device__ __forceinline__ int pass(const MlpTileView& tile, const ForwardNetwork& net, int from,
                                    int rows, int area) {
  for (int l = from; l < net.count; ++l, area ^= 1) {
    const ForwardLayer& layer = net.layers[l];
    float* y = tile.floats(area ^ 1);
    multiply(tile.floats(area), layer.rows, layer.inputs, layer.stride, y);
    __syncthreads();  // multiplied
    for (int j = threadIdx.x; j < layer.stride; j += kMlpThreads) {
      const float bias = layer.bias[j];
      for (int row = 0; row < rows; ++row) {
        float& value = y[row * float_row(layer.stride) + j];
        value = activate(layer.activation, value + bias);
      }
    }
    __syncthreads();  // activated
  }
  return area;
}

// A descent or a proof begins at the slot's trial code.
__device__ __forceinline__ void begin_descent(const TileJoint& joint, int slot) {
  joint.block.slots[slot].begin();
  joint.block.images[slot] = slot;
}

// The first warp, a lane a slot: who weighs in this turn.
__device__ __forceinline__ void list_weighers(const TileJoint& joint) {
  const int mine = threadIdx.x;
  bool weighs = false;
  if (mine < joint.run.at.images && joint.own.images[mine] >= 0) {
    const TilePhase phase = joint.tasks[mine].phase;
    weighs = phase != TilePhase::kEncode && joint.block.images[mine] < 0;
  }
  const int count = list_slots(weighs, joint.own.turn.weighing);
  if (mine == 0) joint.own.turn.weighers = count;
}

// Gives the empty slots tasks from the queue, begins what waited, and says who encodes: where many
// ask, where one has asked long, or where nobody does anything else. A thread a slot; whether it
// has a task.
__device__ __forceinline__ bool fill_tasks(const TileJoint& joint) {
  const int mine = threadIdx.x;
  if (mine >= 32) return false;
  bool works = false, asks = false;
  if (mine < joint.run.at.images) {
    const JointInput& in = joint.run.input;
    TileTask& held = joint.tasks[mine];
    if (joint.own.images[mine] < 0) {
      const unsigned long long next = atomicAdd(joint.run.queue, 1ull);
      if (next < static_cast<unsigned long long>(in.batch * in.starts)) {
        const int64_t image = next / in.starts, start = next % in.starts;
        const int k = joint.run.net.latent;
        const float* code = in.codes + image * in.codes_stride + start * k;
        joint.own.images[mine] = image;
        held.start = start;
        held.phase = TilePhase::kBegin;
        held.state = 0;
        held.published = joint.encodes(start);
        held.waits = false;
        for (int c = 0; c < k; ++c) joint.trial(mine)[c] = code[c];
      }
    } else if (held.waits) {
      held.waits = false;
      begin_descent(joint, mine);
    }
    works = joint.own.images[mine] >= 0;
    asks = works && held.phase == TilePhase::kEncode;
  }
  const bool others = __any_sync(0xffffffffu, works && !asks);
  const int asked = list_slots(asks, joint.own.turn.encoding);
  if (mine == 0) {
    const bool due =
        4 * asked >= joint.run.at.images || joint.own.turn.waited >= kPatience || !others;
    joint.own.turn.waited = asked == 0 || due ? 0 : joint.own.turn.waited + 1;
    joint.own.turn.encoders = due ? asked : 0;
  }
  list_weighers(joint);
  return works;
}

// The codes mu_phi(x) of the states that are to be encoded, for their slots to go on from.
__device__ __forceinline__ void encode(const TileJoint& joint) {
  const MlpTileView& tile = joint.tile();
  const int encoders = joint.own.turn.encoders, k = tile.net.latent, pixels = joint.run.at.pixels;
  if (encoders == 0) return;  // so says every thread
  for (int begin = 0; begin < encoders; begin += MlpTaskLayout::kRows) {
    const int rows = min(MlpTaskLayout::kRows, encoders - begin);
    const int* slots = joint.own.turn.encoding + begin;
    for (int row = 0; row < rows; ++row) {
      const float* x = joint.x(slots[row], 0);
      float* to = tile.floats(0) + row * float_row(pixels);
      for (int j = threadIdx.x; j < pixels; j += kMlpThreads) to[j] = x[j];
    }
    __syncthreads();  // gathered
    const float* codes = tile.floats(pass(tile, joint.run.encoder, 0, rows, 0));
    const int stride = float_row(joint.run.encoder.layers[joint.run.encoder.count - 1].stride);
    for (int i = threadIdx.x; i < rows * k; i += kMlpThreads) {
      joint.trial(slots[i / k])[i % k] = codes[i / k * stride + i % k];
    }
    __syncthreads();  // told
  }
  if (threadIdx.x < 32) {
    if (threadIdx.x < encoders) {
      const int slot = joint.own.turn.encoding[threadIdx.x];
      TileTask& held = joint.tasks[slot];
      joint.own.turn.converged[slot] = false;
      const bool weighs = encoded(held.task, joint.run.settings) == TaskWork::kWeigh;
      held.phase = weighs ? TilePhase::kWeigh : TilePhase::kDescend;
      if (!weighs) begin_descent(joint, slot);
    }
    __syncwarp();
    list_weighers(joint);
  }
}

}  // namespace jpmap
