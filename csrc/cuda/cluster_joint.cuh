// What a cluster keeps of one task of mlp_jpmap beside a descent's memory, and the passes that
// encode and decode. The barriers, in the notation of cluster_layout.cuh:
//
//   told        block    the task, its first code, then each time what is to be done next
//   made        block    own values of a layer
//   passed      cluster  which all blocks have
//   pooled      cluster  sums over all pixels
//   elected     cluster  whether this start is the last of its image
//
// Every `passed` gives the buffer that the one before did not: a block writes to one of the others
// only after a barrier that these reached when they had read it.
#pragma once

#include "cuda/cluster_block.cuh"
#include "cuda/joint_point.cuh"
#include "cuda/warp_sums.cuh"

namespace jpmap {
namespace clusters {

// Offsets in floats, `begin` and beyond: behind a ClusterLayout. Own pixels are those of the
// decoder's last layer, padded as it is.
struct JointLayout {
  int own;  // own pixels

  // pass_on, from every block -> passed -> values_own and everybody. Next writer: pass_on after the
  // next one.
  int wide[2];  // values of all neurons of a layer, or of all pixels

  // decode -> made -> values_own of layer 1; next writer: decode, after `made` of that layer.
  int bottom;  // values of the decoder's layer 0, whole

  // values_own, projection -> made -> pass_on, in place -> passed.
  int mine;  // own values [widest own]

  // weigh, a thread its own pixels -> take_found, in place; decode -> made -> weigh.
  int found_x, found_decoded;

  // take_found -> told -> pass_on, weigh, write_image.
  int x, decoded;

  int floats;  // with those before `begin`

  JointLayout(int begin, const MlpNetwork& net, const ForwardNetwork& decoder,
              const ForwardNetwork& encoder) {
    int at = begin;
    const auto take = [&](int count) {
      const int begin = at;
      at += (count + 3) / 4 * 4;
      return begin;
    };
    const int pixels = decoder.layers[decoder.count - 1].stride;
    int widest = std::max(pixels, net.layers[net.count - 1].stride);
    for (int l = 0; l < decoder.count; ++l) widest = std::max(widest, decoder.layers[l].stride);
    for (int l = 0; l < encoder.count; ++l) widest = std::max(widest, encoder.layers[l].stride);
    own = pixels / kBlocks;
    wide[0] = take(widest);
    wide[1] = take(widest);
    bottom = take(decoder.layers[0].stride);
    mine = take(widest / kBlocks);
    found_x = take(own);
    found_decoded = take(own);
    x = take(own);
    decoded = take(own);
    floats = at;
  }
};

// The rest of a block's shared memory: one task. Every block has the same numbers, and decides
// alike.
struct ClusterTask {
  // One thread, or begin_task -> told -> every thread.
  Task task;
  TaskWork work;
  bool published;  // the state has x = A^T y
  float z[kCodes], objective, gap;

  // load_task, encode, the end of a descent -> told or advanced -> decode, begin_descent,
  // take_found.
  float code[kCodes];

  // weigh, one thread -> told.
  float found_objective, found_gap;
  double moved;

  // The end of a descent, by `advance` -> advanced.
  double value;
  int64_t steps;
  bool converged;

  // elect, from the first block -> elected; next writer after the next task's `passed`.
  bool last;

  // pool: by warp -> made; from every block -> pooled. Next writer of the same buffer: the pool
  // after the next.
  double warps[kWarps][kPointSums];
  double pooled[2][kBlocks][kPointSums];
};

static_assert(sizeof(ClusterTask) + sizeof(ClusterState) <= 4096 - 1024);  // of kMlpReserved

#ifdef JPMAP_HAS_CLUSTERS

// A block at work on tasks.
struct JointBlock {
  const ClusterBlock& block;
  const JointLayout& at;
  const JointInput& input;
  const ForwardNetwork& decoder;
  const ForwardNetwork& encoder;
  ClusterTask& task;  // shared
  int& turn;          // which of `wide` is written next
  int& pool_turn;     // and of `pooled`

  __device__ __forceinline__ float* memory(int offset) const { return block.memory + offset; }
};

// use(i, sum_k rows[i][k] x[k]) for own rows i, in one lane or several: it may store, but not add.
template <class Use>
__device__ __forceinline__ void values_own(const float* rows, const float* x, int depth, int own,
                                           const Use& use) {
  const int lane = threadIdx.x % 32;
  for (int begin = threadIdx.x / 32 * kRowsAtOnce; begin < own; begin += kWarps * kRowsAtOnce) {
    float sum[kRowsAtOnce] = {};
    if (depth % 4 == 0) {
#pragma unroll 2
      for (int k = 4 * lane; k < depth; k += 128) {
        const float4 v = *reinterpret_cast<const float4*>(x + k);
#pragma unroll
        for (int r = 0; r < kRowsAtOnce; ++r) {
          const float4 row =
              *reinterpret_cast<const float4*>(rows + min(begin + r, own - 1) * depth + k);
          sum[r] = fmaf(row.x, v.x, sum[r]);
          sum[r] = fmaf(row.y, v.y, sum[r]);
          sum[r] = fmaf(row.z, v.z, sum[r]);
          sum[r] = fmaf(row.w, v.w, sum[r]);
        }
      }
    } else {
      for (int k = lane; k < depth; k += 32) {
#pragma unroll
        for (int r = 0; r < kRowsAtOnce; ++r) {
          sum[r] = fmaf(rows[min(begin + r, own - 1) * depth + k], x[k], sum[r]);
        }
      }
    }
    warp_sums(sum, [&](int i, float value) {
      if (begin + i < own) use(begin + i, value);
    });
  }
}

// Own values [own] of every block to all of them: where they lie, until the call after the next.
__device__ __forceinline__ const float* pass_on(const JointBlock& joint, const float* mine,
                                                int own) {
  const ClusterBlock& block = joint.block;
  float* target = joint.memory(joint.at.wide[joint.turn]);
  joint.turn ^= 1;
  for (int i = threadIdx.x; i < kBlocks * own; i += kBlockThreads) {
    block.cluster.map_shared_rank(target, i / own)[block.rank * own + i % own] = mine[i % own];
  }
  block.cluster.sync();  // passed
  return target;
}

// Own values of a layer that reads from all neurons of the one before.
__device__ __forceinline__ void layer_own(const JointBlock& joint, const ForwardLayer& layer,
                                          const float* x, float* to) {
  const int own = layer.stride / kBlocks, first = joint.block.rank * own;
  values_own(layer.rows + static_cast<int64_t>(first) * layer.inputs, x, layer.inputs, own,
             [&](int i, float value) {
               to[i] = activate(layer.activation, value + layer.bias[first + i]);
             });
}

// mu_phi(x) of the state to the task's code.
__device__ __forceinline__ void encode(const JointBlock& joint) {
  const float* x = pass_on(joint, joint.memory(joint.at.x), joint.at.own);
  float* mine = joint.memory(joint.at.mine);
  for (int l = 0; l < joint.encoder.count; ++l) {
    const ForwardLayer& layer = joint.encoder.layers[l];
    layer_own(joint, layer, x, mine);
    __syncthreads();  // made
    x = pass_on(joint, mine, layer.stride / kBlocks);
  }
  if (threadIdx.x < joint.block.net.latent) joint.task.code[threadIdx.x] = x[threadIdx.x];
}

// Own pixels of G at the task's code.
__device__ __forceinline__ void decode(const JointBlock& joint) {
  const ForwardNetwork& decoder = joint.decoder;
  const int k = joint.block.net.latent;
  float *mine = joint.memory(joint.at.mine), *pixels = joint.memory(joint.at.found_decoded);
  const float* x = nullptr;
  for (int l = 0; l < decoder.count; ++l) {
    const ForwardLayer& layer = decoder.layers[l];
    const bool last = l + 1 == decoder.count;
    const int own = layer.stride / kBlocks;
    if (l == 0) {
      // So few inputs are not worth passing on: every block makes the layer whole.
      float* to = last ? pixels : joint.memory(joint.at.bottom);
      const int first = last ? joint.block.rank * own : 0, count = last ? own : layer.stride;
      for (int i = threadIdx.x; i < count; i += kBlockThreads) {
        const float* row = layer.rows + (first + i) * k;
        float a = layer.bias[first + i];
        for (int c = 0; c < k; ++c) a = fmaf(row[c], joint.task.code[c], a);
        to[i] = activate(layer.activation, a);
      }
      x = to;
      __syncthreads();  // made
      continue;
    }
    layer_own(joint, layer, x, last ? pixels : mine);
    __syncthreads();  // made
    if (!last) x = pass_on(joint, mine, own);
  }
}

// Sums over the pixels of all blocks, in the order of their ranks.
__device__ __forceinline__ void pool(const JointBlock& joint, double (&sums)[kPointSums]) {
  ClusterTask& task = joint.task;
  const ClusterBlock& block = joint.block;
#pragma unroll
  for (int s = 0; s < kPointSums; ++s) {
    for (int offset = 16; offset > 0; offset /= 2) {
      sums[s] += __shfl_xor_sync(0xffffffffu, sums[s], offset);
    }
    if (threadIdx.x % 32 == 0) task.warps[threadIdx.x / 32][s] = sums[s];
  }
  __syncthreads();  // made
  auto& pooled = task.pooled[joint.pool_turn];
  joint.pool_turn ^= 1;
  if (threadIdx.x < kBlocks * kPointSums) {
    const int to = threadIdx.x / kPointSums, s = threadIdx.x % kPointSums;
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += task.warps[w][s];
    *block.cluster.map_shared_rank(&pooled[block.rank][s], to) = sum;
  }
  block.cluster.sync();  // pooled
#pragma unroll
  for (int s = 0; s < kPointSums; ++s) {
    sums[s] = 0;
    for (int from = 0; from < kBlocks; ++from) sums[s] += pooled[from][s];
  }
}

#endif

}  // namespace clusters
}  // namespace jpmap
