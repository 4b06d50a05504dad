// A point of J1 by a cluster: G at a code, the best x, J1, the gap, and how far it is from the
// state.
#pragma once

#include "cuda/cluster_joint.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// Own pixels of x for a diagonal A, and what they add to the sums.
__device__ __forceinline__ void update_own(const JointBlock& joint, int64_t image, bool published,
                                           double (&sums)[kPointSums]) {
  const JointInput& in = joint.input;
  const float *decoded = joint.memory(joint.at.found_decoded), *old = joint.memory(joint.at.x);
  float* found = joint.memory(joint.at.found_x);
  const Tie tie = tie_of(in, image);
  for (int i = threadIdx.x; i < joint.at.own; i += kBlockThreads) {
    const int j = joint.block.rank * joint.at.own + i;
    found[i] = j < in.pixels
                   ? update_pixel(tie, pixel_of(in, image, j), decoded[i], old[i], published, sums)
                   : 0.0f;
  }
}

// The same for A = U H.
__device__ __forceinline__ void project_own(const JointBlock& joint, int64_t image, bool published,
                                            double (&sums)[kPointSums]) {
  const ClusterBlock& block = joint.block;
  const JointInput& in = joint.input;
  const auto& map = block.net.layers[block.last()];
  const int own = joint.at.own, p = block.net.outputs, measured = block.at.own[block.last()];
  const float *decoded = joint.memory(joint.at.found_decoded), *old = joint.memory(joint.at.x);
  float *found = joint.memory(joint.at.found_x), *mine = joint.memory(joint.at.mine);
  for (int i = threadIdx.x; published && i < own; i += kBlockThreads) {
    const int j = block.rank * own + i;
    found[i] = j < in.pixels ? in.y[image * in.pixels + j] : 0.0f;
  }
  __syncthreads();  // made
  const float* whole = pass_on(joint, published ? found : decoded, own);
  values_own(block.weights[block.last()], whole, map.inputs, measured,
             [&](int i, float value) { mine[i] = value; });
  __syncthreads();  // made
  const float noise = noise_of(in, image);
  for (int i = threadIdx.x; i < measured; i += kBlockThreads) {
    const int j = block.rank * measured + i;
    mine[i] = j < p ? gain_of(in.values[image * in.values_stride + j], noise,
                              block.memory[block.at.target + i], mine[i], published, sums[0])
                    : 0.0f;
  }
  __syncthreads();  // made
  if (!published) {
    const float* gains = pass_on(joint, mine, measured);
    values_own(map.columns + static_cast<int64_t>(block.rank) * own * map.stride, gains, map.stride,
               own, [&](int i, float value) { found[i] = decoded[i] + value; });
    __syncthreads();  // made
  }
  for (int i = threadIdx.x; i < own; i += kBlockThreads) {
    if (block.rank * own + i >= in.pixels) {
      found[i] = 0.0f;
      continue;
    }
    add_pixel(found[i], decoded[i], old[i], sums);
  }
}

// The point of the task's code, with the best x or with x = A^T y. Ends behind a barrier.
__device__ __forceinline__ void weigh(const JointBlock& joint, const MlpData& data, int64_t image,
                                      bool published) {
  decode(joint);
  double sums[kPointSums] = {};
  if (joint.input.values == nullptr) {
    update_own(joint, image, published, sums);
  } else {
    project_own(joint, image, published, sums);
  }
  pool(joint, sums);
  if (threadIdx.x == 0) {
    ClusterTask& task = joint.task;
    const WeighedPoint found = weighed_point(joint.input, data.constant, image, published, sums,
                                             task.code, task.z, joint.block.net.latent);
    task.found_objective = found.objective;
    task.found_gap = found.gap;
    task.moved = found.moved;
  }
  __syncthreads();  // told
}

// The point becomes the state. Without a barrier.
__device__ __forceinline__ void take_found(const JointBlock& joint, bool published) {
  ClusterTask& task = joint.task;
  for (int i = threadIdx.x; i < joint.at.own; i += kBlockThreads) {
    joint.memory(joint.at.x)[i] = joint.memory(joint.at.found_x)[i];
    joint.memory(joint.at.decoded)[i] = joint.memory(joint.at.found_decoded)[i];
  }
  if (threadIdx.x < kCodes) task.z[threadIdx.x] = task.code[threadIdx.x];
  if (threadIdx.x == 0) {
    task.objective = task.found_objective;
    task.gap = task.found_gap;
    task.published = published;
  }
}

}  // namespace clusters
}  // namespace jpmap
#endif
