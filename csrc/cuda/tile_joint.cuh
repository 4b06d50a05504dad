// A block's tile of tasks of mlp_jpmap: what it keeps beside the descents of mlp_block.cuh, who
// writes and reads it, and which barrier stands between. cuda/mlp_jpmap_tile.cu runs a turn in this
// order; all barriers are __syncthreads, those without a mark are of mlp_tile.cuh:
//
//   barrier     after it
//   filled      who asks the encoder has left its slot, where the ring had room, and whether it
//               is asked now is known
//   gathered    * rows that a network is to take, of up to sixteen tasks,
//   multiplied  * + once a layer: its sums,
//   activated   * + and its values,
//   told        * + and their codes
//   taken       * empty slots have tasks, what waited begins, and who weighs is known: without an
//                 encoder to be asked, before `filled`
//   forward       once a layer
//   gathered      + as above, for the decoder's layers that the descents' network has not made, or
//                 | outputs made of the roots of its last one;
//   opened      * | for A = U H, the rows that H measures;
//   multiplied  * | what H measures;
//   divided     * | gains; multiplied: what they add to x;
//   weighed     * + x, J1 and the next work of up to sixteen tasks; ended ones are written
//   chosen        f of all trials, the slots whose trial is accepted
//   backward to added, or set
//   advanced      next trials; where descents have ended the next work
//
// * only where a task encodes, or weighs.
//
// Who asks the encoder waits for others, beside the slots, which go on with other tasks: in a ring
// of places in device memory, those that have been told their codes first.
#pragma once

#include "cuda/joint_ends.cuh"
#include "cuda/mlp_block.cuh"
#include "mlp_task_layout.h"

namespace jpmap {

// Turns that a task waits for others that are to be weighed, or, once the queue is empty, that ask
// the encoder too, and of how many slots one has to: by trial.
constexpr int kPatience = 2, kEncoders = 4;
constexpr int kWeighers = 8;

// What a block's threads agree on beside their tasks, in shared memory.
struct TileTurn {
  // fill -> filled -> encode. The points that are encoded, in order, and how many.
  int encoding[kMlpImages];
  int encoders;

  // take -> filled or taken -> every thread. The slots that weigh, in order, and how many.
  int weighing[kMlpImages];
  int weighers;

  // The first warp; encode reads them as well, between `filled` and `told`. The ring: its first
  // place, and how many have been told their codes, and wait.
  int first, told, waiting;

  // The first warp alone. How long one has waited for the encoder with nothing left in the queue,
  // and to be weighed.
  int waited, waited_to_weigh;

  // choose -> chosen -> every thread. Whether a system has to say what a Newton step promises.
  bool proves;

  // advance -> the same warp, and advanced -> the next turn's weigh; of `converged` take, of told
  // tasks -> filled or taken, and weigh, one warp a slot. What a descent comes to beside its code.
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
  float* workspace;           // [blocks][at.block]
};

// A block's shared memory beside what the layout has.
struct TileShared {
  MlpSlot slots[kMlpImages];
  int accepted[kMlpImages];
  int count;
  float factors[kMlpImages];
  double misfits[kMlpImages];

  // Of the slots: images that they work on, -1 for none. fill, take -> filled, taken; weigh,
  // advance, a warp a slot, when a task has ended -> weighed, advanced.
  long long images[kMlpImages];

  // Of the slots: their own numbers while they descend or prove, -1 otherwise. As `images` of
  // MlpBlock; take, weigh begin them, weigh ends them too.
  long long descending[kMlpImages];

  TileTurn turn;
};
static_assert(sizeof(TileShared) <= kMlpReserved - 256);

struct TileJoint {
  const TileRun& run;
  TileShared& own;
  MlpBlock block;

  // Shared, of the slots. fill, take, the first warp, a lane a slot -> filled, taken; weigh, one
  // warp a slot -> weighed; choose, the first warp -> chosen; advance, a warp a slot -> advanced.
  TileTask* tasks;

  // Shared [images][k]. take, weigh, advance, likewise -> later turns.
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
  // One lane: the network passes at this code next, or the trial's is that of the state.
  __device__ __forceinline__ void try_code(int slot, const float* from) const {
    for (int c = 0; c < run.net.latent; ++c) trial(slot)[c] = from[c];
  }
  __device__ __forceinline__ void keep_trial(int slot) const {
    for (int c = 0; c < run.net.latent; ++c) code(slot)[c] = trial(slot)[c];
  }

  __device__ bool encodes(int64_t start) const { return run.encoder.count > 0 && start == 0; }

  // Device memory: a point's x, with G behind it.
  __device__ float* point(int number) const {
    return tile().slots + run.at.points + number * run.at.point;
  }

  // Of a slot its state (`which` 0) or candidate (1).
  __device__ float* x(int slot, int which) const { return point(tasks[slot].points[which]); }
  __device__ float* decoded(int slot, int which) const { return x(slot, which) + run.at.pixels; }

  // Device memory: a place of the ring, from the first on. The first warp, a lane a place; of
  // `told` encode -> told.
  __device__ TilePlace& place(int number) const {
    auto* places = reinterpret_cast<TilePlace*>(tile().slots + run.at.places);
    return places[(own.turn.first + number) % run.at.ring];
  }

 private:
  static __device__ __forceinline__ MlpBlock block_of(const TileRun& run, char* memory,
                                                      TileShared& shared) {
    const MlpTaskLayout& at = run.at;
    float* staged = reinterpret_cast<float*>(memory + at.area[0] + at.area[1]);
    float* codes = staged + at.staged;
    return {{run.net, at, memory, staged, codes, codes + at.codes,
             run.workspace + blockIdx.x * at.block, shared.factors, shared.misfits},
            shared.slots,
            shared.descending,
            codes + 2 * at.codes,
            shared.accepted,
            &shared.count};
  }
};

// A warp a row: rows of `width` floats that `value(row, j)` and its neighbour are of, to an area,
// split.
template <class Value>
__device__ __forceinline__ void gather(const MlpTileView& tile, int rows, int width, int area,
                                       const Value& value) {
  const int lane = this_lane();
  for (int row = this_warp(); row < rows; row += kMlpWarps) {
    float* to = tile.floats(area) + row * split_stride(width);
    float largest = 0;
    constexpr int kAhead = 4;
    for (int begin = 2 * lane; begin < width; begin += 64 * kAhead) {
      float2 v[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = begin + 64 * i;
        v[i] = j < width ? value(row, j) : make_float2(0, 0);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = begin + 64 * i;
        if (j >= width) break;
        store2(to + j, v[i].x, v[i].y);
        largest = fmaxf(largest, fmaxf(fabsf(v[i].x), fabsf(v[i].y)));
      }
    }
    const float factor = split_row(to, width, largest);
    if (lane == 0) tile.factors[row] = factor;
  }
}

// One block: the product of split rows in an area with split weights [columns][depth], to the other
// one.
__device__ __forceinline__ void multiply(const MlpTileView& tile, const __half* w, float unscale,
                                         int depth, int columns, int rows, int area) {
  split_product({tile.floats(area), tile.factors, tile.floats(area ^ 1), w, unscale,
                 split_stride(depth), split_stride(columns), 16 * depth, depth, rows, false},
                columns);
}

// Layers [from, count) of a network at `rows` rows, split, in an area: the area of the last one's
// values, as they are. From behind one barrier to behind another.
__device__ __forceinline__ int pass(const MlpTileView& tile, const ForwardNetwork& net, int from,
                                    int rows, int area) {
  for (int l = from; l < net.count; ++l, area ^= 1) {
    const ForwardLayer& layer = net.layers[l];
    const float* y = tile.floats(area ^ 1);
    multiply(tile, layer.split, unscale_of(layer), layer.inputs, layer.stride, rows, area);
    __syncthreads();  // multiplied
    const auto value = [&](int row, int j) {
      const float2 sum = load2(y + row * split_stride(layer.stride) + j),
                   bias = load2(layer.bias + j);
      return make_float2(activate(layer.activation, sum.x + bias.x),
                         activate(layer.activation, sum.y + bias.y));
    };
    if (l + 1 < net.count) {
      gather(tile, rows, layer.stride, area ^ 1, value);  // in place: a lane has its own numbers
    } else {
      for (int row = this_warp(); row < rows; row += kMlpWarps) {
        float* mine = tile.floats(area ^ 1) + row * split_stride(layer.stride);
        for (int j = 2 * this_lane(); j < layer.stride; j += 64) {
          const float2 v = value(row, j);
          store2(mine + j, v.x, v.y);
        }
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

// Whether a slot has no state that its candidate is compared with.
__device__ __forceinline__ bool stands_alone(const TileTask& held) {
  return held.phase == TilePhase::kBegin || held.phase == TilePhase::kState ||
         held.phase == TilePhase::kRemake;
}

// f as J1 of a point is: rounded, so that both say the same wherever one is asked for the other.
__device__ __forceinline__ float as_objective(double f) { return static_cast<float>(f); }

}  // namespace jpmap
