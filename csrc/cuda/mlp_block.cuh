// The solves of a block's tile of images, between queue and results.
#pragma once

#include "cuda/mlp_forward.cuh"
#include "cuda/mlp_solve.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

// A block and its solves; mlp_tile.cuh names the barriers.
struct MlpBlock {
  MlpTileView tile;

  // Shared, of the slots. fill -> filled -> choose (the trial's f) -> chosen -> advance, in place
  // -> advanced.
  MlpSlot* slots;

  // Shared, of the slots, -1 for an empty one. fill -> filled -> every thread; advance or
  // write_systems, -1 -> advanced -> fill.
  long long* images;

  // Shared [images][k]. advance alone, a warp a slot, which keeps it from step to step.
  float* z;

  // Shared. choose -> chosen -> every thread.
  int* accepted;  // slots whose trial is accepted, in order
  int* count;     // of them
};

// A thread a slot: gives the empty ones images from the queue, active ones only. Whether the
// thread's slot has an image.
__device__ __forceinline__ bool fill(const MlpBlock& block, const MlpData& data,
                                     const MlpSettings& settings, const MlpResults& out,
                                     unsigned long long* queue) {
  const int k = block.tile.net.latent, mine = threadIdx.x;
  if (mine >= block.tile.at.images) return false;
  if (block.images[mine] < 0) {
    unsigned long long next = atomicAdd(queue, 1ull);
    for (; next < data.batch && settings.active != nullptr && !settings.active[next];
         next = atomicAdd(queue, 1ull)) {
      leave_out(out, data.start, next, k);
    }
    if (next < data.batch) {
      block.images[mine] = next;
      block.slots[mine].begin();
      for (int c = 0; c < k; ++c) block.tile.trial[mine * k + c] = data.start[next * k + c];
    }
  }
  return block.images[mine] >= 0;
}

// The first warp, a lane a slot: those that are `mine` to `list`, in order; how many they are.
__device__ __forceinline__ int list_slots(bool mine, int* list) {
  const unsigned all = __ballot_sync(0xffffffffu, mine);
  if (mine) list[__popc(all & ((1u << threadIdx.x) - 1u))] = threadIdx.x;
  return __popc(all);
}

// The first warp, a lane a slot at work, on `images[slot]` of the data: f at the trials, and which
// of them are accepted and want a system.
__device__ __forceinline__ void choose(const MlpBlock& block, const MlpData& data,
                                       const long long* images) {
  if (threadIdx.x >= 32) return;
  const int i = threadIdx.x;
  bool mine = i < block.tile.at.images && block.images[i] >= 0;
  if (mine) {
    block.slots[i].trial = objective(block.tile, data, i, images[i]);
    mine = block.slots[i].accepts() && !block.slots[i].last;
  }
  const int count = list_slots(mine, block.accepted);
  if (i == 0) *block.count = count;
}

// A warp a slot at work, as many warps as there is memory for the algebra: body(slot, where its
// numbers stand, memory).
template <class Algebra, class Body>
__device__ __forceinline__ void each_solve(const MlpBlock& block, const Body& body) {
  const int k = block.tile.net.latent, each = Algebra::scratch(k);
  const int room = (block.tile.at.area[0] + block.tile.at.area[1]) / (8 * max(each, 1));
  const int warps = min(kMlpWarps, room), warp = this_warp();
  if (warp >= warps) return;
  double* scratch = reinterpret_cast<double*>(block.tile.areas) + warp * each;
  for (int index = warp; index < block.tile.at.images; index += warps) {
    if (block.images[index] < 0) continue;
    const float* slot = block.tile.slot(index);
    const MlpSystem system{slot + block.tile.at.matrix, slot + block.tile.at.hessian,
                           block.tile.gradient + index * k, k};
    body(index,
         MlpSolve{block.slots + index, block.images + index, block.z + index * k,
                  block.tile.trial + index * k, system, nullptr, true},
         scratch);
  }
}

template <class Algebra>
__device__ void advance_all(const MlpBlock& block, const MlpSettings& settings,
                            const MlpResults& out) {
  each_solve<Algebra>(block, [&](int, MlpSolve solve, double* scratch) {
    solve.known = known_of(settings, *solve.image, solve.system.k);
    advance<Algebra>(solve, settings, out, scratch);
  });
}

// One block: outputs and systems of all slots to the results.
__device__ inline void write_systems(const MlpBlock& block, const MlpResults& out) {
  const auto& tile = block.tile;
  const int k = tile.net.latent, last = tile.net.count - 1, p = tile.net.outputs;
  for (int index = 0; index < tile.at.images; ++index) {
    const long long image = block.images[index];
    if (image < 0) continue;
    const float* slot = tile.slot(index);
    for (int j = threadIdx.x; j < p; j += kMlpThreads) {
      out.output[image * p + j] =
          output_of(tile.net.layers[last].activation, slot[tile.at.root[last] + j]);
    }
    for (int i = threadIdx.x; i < k * k; i += kMlpThreads) {
      const int lower = max(i / k, i % k) * k + min(i / k, i % k);
      const double matrix = slot[tile.at.matrix + lower];
      out.matrix[image * k * k + i] = matrix;
      out.hessian[image * k * k + i] = matrix + slot[tile.at.hessian + lower];
      if (i < k) out.gradient[image * k + i] = tile.gradient[index * k + i];
    }
  }
  __syncthreads();  // every thread has read `images`
  if (threadIdx.x < tile.at.images && block.images[threadIdx.x] >= 0) {
    out.objective[block.images[threadIdx.x]] = block.slots[threadIdx.x].trial;
    block.images[threadIdx.x] = -1;
  }
}

}  // namespace jpmap
