// The way back: df/dh and df/da of the neurons of every layer, each at the block that owns it.
#pragma once

#include "cuda/cluster_block.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// What own neurons add to df/dh of those below, to the blocks that own these. Two columns a thread:
// layers are padded to multiples of 32, so both have one owner.
__device__ __forceinline__ void scatter_cotangents(const ClusterBlock& block, int l) {
  const auto& at = block.at;
  const int own = at.own[l], below = at.own[l - 1], depth = block.net.layers[l].inputs;
  float* received = block.memory + at.received[(l - 1) % 2];
  const float* w = block.weights[l];
  const float* carried = block.memory + at.carried;
  for (int j = 2 * threadIdx.x; j < depth; j += 2 * kBlockThreads) {
    float2 sum = {0.0f, 0.0f};
    int i = 0;
    for (; i + kRowsBack <= own; i += kRowsBack) {
      float2 row[kRowsBack];
      float pull[kRowsBack];
#pragma unroll
      for (int u = 0; u < kRowsBack; ++u) {
        row[u] = *reinterpret_cast<const float2*>(w + (i + u) * depth + j);
        pull[u] = carried[i + u];
      }
#pragma unroll
      for (int u = 0; u < kRowsBack; ++u) {
        sum.x = fmaf(pull[u], row[u].x, sum.x);
        sum.y = fmaf(pull[u], row[u].y, sum.y);
      }
    }
    for (; i < own; ++i) {
      const float2 row = *reinterpret_cast<const float2*>(w + i * depth + j);
      sum.x = fmaf(carried[i], row.x, sum.x);
      sum.y = fmaf(carried[i], row.y, sum.y);
    }
    float* there =
        block.cluster.map_shared_rank(received, j / below) + block.rank * below + j % below;
    *reinterpret_cast<float2*>(there) = sum;
  }
}

// df/dh of own neurons of layer l, the sum over the blocks in the order of their ranks, and df/da.
__device__ __forceinline__ void sum_cotangents(const ClusterBlock& block, int l) {
  const auto& at = block.at;
  const int own = at.own[l];
  float* f = block.memory;
  const float* received = f + at.received[l % 2];
  for (int i = threadIdx.x; i < own; i += kBlockThreads) {
    float sum = 0.0f;
#pragma unroll
    for (int from = 0; from < kBlocks; ++from) sum += received[from * own + i];
    const float carried = sum * f[at.slope[l] + i];
    f[at.pull[l] + i] = sum;
    f[at.carried + i] = carried;
  }
}

__device__ __forceinline__ void backward(const ClusterBlock& block) {
  for (int l = block.last(); l > 0; --l) {
    scatter_cotangents(block, l);
    block.cluster.sync();  // scattered
    sum_cotangents(block, l - 1);
    __syncthreads();  // pulled
  }
}

}  // namespace clusters
}  // namespace jpmap
#endif
