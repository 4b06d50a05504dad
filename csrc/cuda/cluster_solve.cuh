// One image's descent by a cluster: step after step, and the algebra between them.
#pragma once

#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_sums.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// A warp: f at the trial; takes or refuses it and sets the next, or ends the image. `writes` says
// whether this block's solution goes to the results; `known` is as in MlpSolve.
__device__ __forceinline__ void accept(const ClusterBlock& block, const MlpSettings& settings,
                                       const MlpResults& out, const float* known, bool writes) {
  const int k = block.net.latent;
  auto& state = block.state;
  const LaneGroup<kCodes> group;
  const double code = state.trial[group.lane];
  const double norm = group.sum(group.lane < k ? code * code : 0.0);
  if (threadIdx.x == 0) {
    state.slot.trial = 0.5 * (state.tails[0] + state.tails[1] + norm) + state.constant;
  }
  __syncwarp();
  // A refused trial leaves the system of the point before.
  const int kept = state.kept ^ (state.slot.accepts() ? 1 : 0);
  advance<FourSystems>(
      {&state.slot, &state.image, state.z, state.trial, state.systems[kept].of(k), known, writes},
      settings, out, nullptr);
  if (threadIdx.x == 0) state.kept = kept;
}

// From the start of begin_descent to the end, which goes to the results.
__device__ __forceinline__ void descend(const ClusterBlock& block, const MlpSettings& settings,
                                        const MlpResults& out, const float* known, bool writes) {
  while (block.state.image >= 0) {
    const bool last = block.state.slot.last;
    forward(block);
    if (last) {
      block.cluster.sync();  // scattered: of the last trial f alone is asked
    } else {
      backward(block);
    }
    sum_system(block, settings.second_order && !last);
    if (threadIdx.x < 32) accept(block, settings, out, known, writes);
    __syncthreads();  // advanced
  }
}

}  // namespace clusters
}  // namespace jpmap
#endif
