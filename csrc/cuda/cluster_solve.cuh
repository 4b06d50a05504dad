// One image's descent by a cluster: step after step, and the algebra between them.
#pragma once

#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_sums.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// Eight lanes: f at the trial; takes or refuses it and sets the next, or ends the image. `writes`
// says whether this block's solution goes to the results.
__device__ __forceinline__ void accept(const ClusterBlock& block, const MlpData& data,
                                       const MlpSettings& settings, const MlpResults& out,
                                       int64_t image, bool writes) {
  const int thread = threadIdx.x, k = block.net.latent;
  auto& state = block.state;
  const LaneGroup<kCodes> group;
  double norm = thread < k ? static_cast<double>(state.trial[thread]) * state.trial[thread] : 0.0;
  norm = group.sum(norm);
  if (thread == 0) {
    state.slot.trial = 0.5 * (state.tails[0] + state.tails[1] + norm) +
                       (data.constant == nullptr ? 0.0 : data.constant[image]);
  }
  group.sync();
  // A refused trial leaves the system of the point before.
  const bool taken = state.slot.fresh || state.slot.trial < state.slot.value;
  if (taken) {
    if (thread < k) state.kept_gradient[thread] = state.gradient[thread];
    for (int i = thread; i < k * k; i += kCodes) {
      state.kept_matrix[i] = state.matrix[i];
      state.kept_hessian[i] = state.hessian[i];
    }
  }
  group.sync();
  advance<kCodes>({&state.slot, &state.image, state.z, state.trial, state.kept_gradient,
                   state.kept_matrix, state.kept_hessian, k, writes},
                  settings, out, state.scratch);
}

// From the start of begin_descent to the end, which goes to the results. `image` is that of the
// measurements.
__device__ __forceinline__ void descend(const ClusterBlock& block, const MlpData& data,
                                        const MlpSettings& settings, const MlpResults& out,
                                        int64_t image, bool writes) {
  while (block.state.image >= 0) {
    forward(block);
    backward(block);
    sum_system(block, settings.second_order);
    if (threadIdx.x < kCodes) accept(block, data, settings, out, image, writes);
    __syncthreads();  // advanced
  }
}

}  // namespace clusters
}  // namespace jpmap
#endif
