// f, gradient and the two matrices: a block's sums over own neurons, and their exchange.
#pragma once

#include "cuda/cluster_block.cuh"
#include "cuda/warp_sums.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// Warps [0, kHessianWarps) add the Hessian's matrices up, the kModelWarps after them Gauss-Newton's
// and the last one the gradient.
constexpr int kHessianWarps = 4, kModelWarps = 3, kGradientWarp = 7;
static_assert(kHessianWarps + kModelWarps == kGradientWarp && kGradientWarp < kWarps);

// The block's f as the sum of two floats; the matrices' zeros; the last layer's tangents past the
// activation, for the Gauss-Newton matrix.
__device__ __forceinline__ void prepare_sums(const ClusterBlock& block) {
  const auto& at = block.at;
  float* f = block.memory;
  const int thread = threadIdx.x, last = block.last();
  float* partial = f + at.partial;
  for (int i = thread; i < kWarps * kEntries; i += kBlockThreads) f[at.jobs + i] = 0.0f;
  if (thread == 0) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += block.state.tails[w];
    const float high = static_cast<float>(sum);
    partial[0] = high;
    partial[1] = static_cast<float>(sum - high);
  }
  for (int i = thread; i < at.own[last] * kCodes; i += kBlockThreads) {
    const int neuron = i % at.own[last];
    f[at.products + i] = f[at.tangents[last] + i] * f[at.slope[last] + neuron];
  }
}

// One warp: adds sum_i weight_i rows_ai rows_bi over up to 32 neurons to a job's matrix.
__device__ __forceinline__ void gram_own(const float* rows, int stride, const float* first_weight,
                                         const float* second_weight, int count, float* job) {
  const int lane = threadIdx.x % 32;
  float a[kCodes], sum[kEntries];
  float weight = lane < count ? first_weight[lane] : 0.0f;
  if (second_weight != nullptr && lane < count) weight *= second_weight[lane];
#pragma unroll
  for (int c = 0; c < kCodes; ++c) a[c] = lane < count ? rows[c * stride + lane] : 0.0f;
#pragma unroll
  for (int i = 0, e = 0; i < kCodes; ++i) {
#pragma unroll
    for (int j = 0; j <= i; ++j, ++e) sum[e] = weight * a[i] * a[j];
  }
  warp_sums(sum, [&](int e, float value) { job[e] += value; });
}

// The matrices, 32 neurons at a time, which the warps take in turns.
__device__ __forceinline__ void add_matrices(const ClusterBlock& block, bool second_order) {
  const auto& at = block.at;
  float* f = block.memory;
  const int warp = threadIdx.x / 32, last = block.last();
  int turn = 0;
  for (int l = 0; l <= last; ++l) {
    for (int begin = 0; begin < at.own[l]; begin += 32) {
      const int count = min(32, at.own[l] - begin);
      if (second_order && bends(block.net.layers[l].activation) && turn++ % kHessianWarps == warp) {
        gram_own(f + at.tangents[l] + begin, at.own[l], f + at.pull[l] + begin,
                 f + at.bend[l] + begin, count, f + at.jobs + warp * kEntries);
      }
      if (l == last && begin / 32 % kModelWarps + kHessianWarps == warp) {
        gram_own(f + at.products + begin, at.own[l], f + at.precision + begin, nullptr, count,
                 f + at.jobs + warp * kEntries);
      }
    }
  }
}

// One warp: what own neurons of layer 0 add to the gradient.
__device__ __forceinline__ void add_gradient(const ClusterBlock& block) {
  const auto& at = block.at;
  const float* f = block.memory;
  float* partial = block.memory + at.partial;
  float sum[kCodes] = {};
  for (int i = threadIdx.x % 32; i < at.own[0]; i += 32) {
    const float carried = f[at.carried + i];
#pragma unroll
    for (int c = 0; c < kCodes; ++c) {
      sum[c] = fmaf(carried, f[at.tangents[0] + c * at.own[0] + i], sum[c]);
    }
  }
  warp_sums(sum, [&](int c, float value) { partial[2 + c] = value; });
}

// The warps' matrices to the block's, in the order of the warps.
__device__ __forceinline__ void total_sums(const ClusterBlock& block) {
  const int thread = threadIdx.x;
  if (thread >= 2 * kEntries) return;
  const bool model = thread >= kEntries;
  const int begin = model ? kHessianWarps : 0, entry = thread % kEntries;
  float sum = 0.0f;
  for (int w = begin; w < begin + (model ? kModelWarps : kHessianWarps); ++w) {
    sum += block.memory[block.at.jobs + w * kEntries + entry];
  }
  block.memory[block.at.partial + 2 + kCodes + thread] = sum;
}

// This block's sums to every block, a warp to two of them.
__device__ __forceinline__ void exchange(const ClusterBlock& block) {
  constexpr int kEach = (kSums + 31) / 32;  // of a lane
  const int lane = threadIdx.x % 32;
  const float* partial = block.memory + block.at.partial;
  float* exchanged = block.memory + block.at.exchanged;
  float mine[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) mine[i] = partial[min(lane + 32 * i, kSums - 1)];
#pragma unroll
  for (int to = threadIdx.x / 32; to < kBlocks; to += kWarps) {
    float* there = block.cluster.map_shared_rank(exchanged, to) + block.rank * kSums;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (lane + 32 * i < kSums) there[lane + 32 * i] = mine[i];
    }
  }
}

// One thread a sum: over the blocks in the order of their ranks, the same bits in all of them, and
// to where the algebra reads it.
__device__ __forceinline__ void spread_sums(const ClusterBlock& block) {
  const int thread = threadIdx.x, k = block.net.latent;
  if (thread >= kSums) return;
  auto& state = block.state;
  auto& system = state.trial_system();
  double sum = 0;
  for (int from = 0; from < kBlocks; ++from) {
    sum += block.memory[block.at.exchanged + from * kSums + thread];
  }
  if (thread < 2) {
    state.tails[thread] = sum;
  } else if (thread < 2 + kCodes) {
    system.gradient[thread - 2] = state.trial[thread - 2] + static_cast<float>(sum);
  } else {
    const int e = (thread - 2 - kCodes) % kEntries;
    int a = 0;  // row and column of the entry: a (a + 1) / 2 come before its row
#pragma unroll
    for (int row = 1; row < kCodes; ++row) a += e >= row * (row + 1) / 2;
    const int b = e - a * (a + 1) / 2;
    const bool model = thread >= 2 + kCodes + kEntries;
    if (a < k) {
      (model ? system.matrix : system.hessian)[a * k + b] =
          static_cast<float>(sum) + (model && a == b ? 1.0f : 0.0f);
    }
  }
}

__device__ __forceinline__ void sum_system(const ClusterBlock& block, bool second_order) {
  prepare_sums(block);
  __syncthreads();  // prepared
  add_matrices(block, second_order);
  if (threadIdx.x / 32 == kGradientWarp) add_gradient(block);
  __syncthreads();  // added
  total_sums(block);
  __syncthreads();  // totalled
  exchange(block);
  block.cluster.sync();  // exchanged
  spread_sums(block);
  __syncthreads();  // spread
}

}  // namespace clusters
}  // namespace jpmap
#endif
