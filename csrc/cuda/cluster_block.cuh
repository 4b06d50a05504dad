// One block of a cluster: what it works on, and what it loads before its first step.
#pragma once

#include <cooperative_groups.h>

#include "cluster_support.h"
#include "cuda/cluster_layout.cuh"
#include "cuda/mlp_data.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

struct ClusterBlock {
  const MlpNetwork& net;
  const ClusterLayout& at;
  float* memory;                        // shared, laid out by `at`
  ClusterState& state;                  // shared
  const float* (&weights)[kMaxLayers];  // own rows of layers 1 .., here or in device memory
  cooperative_groups::cluster_group cluster;
  int rank;

  __device__ __forceinline__ int last() const { return net.count - 1; }
};

// Whether an image of the batch is active; every thread of a block gets the same answer, and every
// block as well.
__device__ __forceinline__ bool any_active(const MlpData& data, const bool* active) {
  bool any = false;
  for (int64_t i = threadIdx.x; i < data.batch; i += kBlockThreads) any = any || active[i];
  return __syncthreads_or(any);
}

// The first block writes the results of a batch without an active image.
__device__ __forceinline__ void leave_all_out(const MlpResults& out, const MlpData& data, int k) {
  for (int64_t i = threadIdx.x; blockIdx.x == 0 && i < data.batch; i += kBlockThreads) {
    leave_out(out, data.start, i, k);
  }
}

// Layer 0 whole, of the others own rows: biases always, weights where the layout has room for them.
__device__ __forceinline__ void load_network(const ClusterBlock& block) {
  const auto& net = block.net;
  const auto& at = block.at;
  const auto& bottom = net.layers[0];
  float* f = block.memory;
  const int thread = threadIdx.x;
  for (int i = thread; i < kCodes * bottom.stride; i += kBlockThreads) {
    f[at.first + i] = i < net.latent * bottom.stride ? bottom.columns[i] : 0.0f;
  }
  for (int i = thread; i < bottom.stride; i += kBlockThreads) f[at.bias[0] + i] = bottom.bias[i];
  for (int l = 1; l < net.count; ++l) {
    const int size = at.own[l] * net.layers[l].inputs;
    const float* source = net.layers[l].rows + static_cast<int64_t>(block.rank) * size;
    for (int i = thread; i < at.own[l]; i += kBlockThreads) {
      f[at.bias[l] + i] = net.layers[l].bias[block.rank * at.own[l] + i];
    }
    block.weights[l] = source;
    if (at.weights[l] < 0) continue;
#pragma unroll 8
    for (int i = 4 * thread; i < size; i += 4 * kBlockThreads) {
      *reinterpret_cast<float4*>(f + at.weights[l] + i) =
          __ldg(reinterpret_cast<const float4*>(source + i));
    }
    block.weights[l] = f + at.weights[l];
  }
}

// Measurements of own outputs of an image. Outputs that only pad the last layer get weight 0.
__device__ __forceinline__ void load_measurements(const ClusterBlock& block, const MlpData& data,
                                                  int64_t next) {
  const auto& net = block.net;
  const auto& at = block.at;
  auto& state = block.state;
  float* f = block.memory;
  const int thread = threadIdx.x, own = at.own[block.last()];
  for (int i = thread; i < own; i += kBlockThreads) {
    const int64_t j = block.rank * own + i, p = net.outputs;
    const Measured m = j < p ? measured(data, next, static_cast<int>(p), static_cast<int>(j))
                             : Measured{0.0f, 0.0f, 1.0f};
    f[at.target + i] = m.target;
    f[at.weight + i] = m.weight;
    f[at.scale + i] = m.scale;
  }
  if (thread == 0) {
    state.law = law_of(data, next);
    state.constant = data.constant == nullptr ? 0.0 : data.constant[next];
  }
}

// A descent from a code [k], whose solution is to be number `image` of the results.
__device__ __forceinline__ void begin_descent(const ClusterBlock& block, const float* start,
                                              int64_t image) {
  auto& state = block.state;
  const int thread = threadIdx.x;
  if (thread == 0) {
    state.image = image;
    state.kept = 0;
    state.slot.begin();
  }
  if (thread < kCodes) state.trial[thread] = thread < block.net.latent ? start[thread] : 0.0f;
}

}  // namespace clusters
}  // namespace jpmap
#endif
