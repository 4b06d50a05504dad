// Whole solves for a few images: lowest latency, not highest throughput.
//
// A cluster of sixteen blocks works on one image at a time. Block r holds the r-th part of every
// layer's neurons: their weights stay in its shared memory for the whole launch (those that do not
// fit are read from the L2 cache). A step is
//   values and tangents of every layer, gathered by all blocks layer by layer (cluster_forward);
//   the way back, each layer's cotangents scattered to their neurons' owners (cluster_backward);
//   one exchange of partial sums: f, gradient and the two matrices (cluster_sums),
// after which every block does the same k x k algebra. Everything is float32 with sums in fixed
// order: the result of an image depends on nothing else. cluster_layout.cuh says what lies where
// and which barrier stands between its writer and its reader.
#include <algorithm>

#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_block.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_sums.cuh"
#include "cuda/launch.cuh"
#include "cuda/mlp_cluster.cuh"

namespace jpmap {
namespace {

using namespace clusters;

#ifdef JPMAP_HAS_CLUSTERS
// Eight lanes: f at the trial; takes or refuses it and sets the next, or ends the image.
__device__ __forceinline__ void accept(const ClusterBlock& block, const MlpData& data,
                                       const MlpSettings& settings, const MlpResults& out,
                                       int64_t image) {
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
                   state.kept_matrix, state.kept_hessian, k, block.rank == 0},
                  settings, out, state.scratch);
}
#endif

__global__ void __launch_bounds__(kBlockThreads, 1)
    cluster_kernel(const __grid_constant__ MlpNetwork net, const __grid_constant__ ClusterLayout at,
                   const MlpData data, const MlpSettings settings, const MlpResults out) {
#ifdef JPMAP_HAS_CLUSTERS
  extern __shared__ __align__(128) float memory[];
  __shared__ ClusterState state;
  const float* weights[kMaxLayers];
  const auto cluster = cooperative_groups::this_cluster();
  const ClusterBlock block{
      net, at, memory, state, weights, cluster, static_cast<int>(cluster.block_rank())};
  const int thread = threadIdx.x;
  if (settings.active != nullptr && !any_active(data, settings.active)) {
    leave_all_out(out, data, net.latent);
    return;
  }
  load_network(block);
  cluster.sync();  // loaded
  const int clusters = gridDim.x / kBlocks;
  for (int64_t next = blockIdx.x / kBlocks; next < data.batch; next += clusters) {
    if (settings.active != nullptr && !settings.active[next]) {
      if (block.rank == 0 && thread == 0) leave_out(out, data.start, next, net.latent);
      continue;
    }
    __syncthreads();  // every thread has seen that the image before is finished
    load_image(block, data, next);
    __syncthreads();  // fetched
    while (state.image >= 0) {
      forward(block);
      backward(block);
      sum_system(block, settings.second_order);
      if (thread < kCodes) accept(block, data, settings, out, next);
      __syncthreads();  // advanced
    }
  }
  cluster.sync();  // left
#else
  __trap();  // never launched; were it, no result may look like one
#endif
}

// Whether an error says that the device has no room for clusters of this size.
bool too_large(cudaError_t error) {
  return error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration ||
         error == cudaErrorInvalidClusterSize || error == cudaErrorNotSupported;
}

// The clusters that run at the same time, 0 where there can be none.
int resident_clusters(const char* op, cudaLaunchConfig_t& config, int room) {
  cudaFuncAttributes code{};
  check_cuda(op, "look up the cluster kernel", cudaFuncGetAttributes(&code, cluster_kernel));
  if (!holds_clusters(code.ptxVersion, code.binaryVersion)) return 0;
  allow_shared_memory(op, cluster_kernel, room);
  int resident = 0;
  cudaError_t error =
      cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveClusters(&resident, cluster_kernel, &config);
  }
  if (too_large(error)) {
    cudaGetLastError();  // the answer to our question, and nobody else's error
    return 0;
  }
  check_cuda(op, "count the clusters that fit", error);
  return resident;
}

}  // namespace

bool launch_clusters(const char* op, const MlpNetwork& net, const MlpData& data,
                     const MlpSettings& settings, const MlpResults& out, int room,
                     cudaStream_t stream) {
  // With a single layer nothing would keep a step's exchange apart from the next one's.
  if (net.latent > kCodes || net.count < 2) return false;
  const ClusterLayout at(net, room);
  const int bytes = 4 * at.floats;
  if (bytes > room) return false;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kBlocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kBlockThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const int resident = resident_clusters(op, config, room);
  if (resident == 0) return false;
  config.gridDim =
      dim3(static_cast<unsigned int>(kBlocks * std::min<int64_t>(resident, data.batch)));
  check_cuda(op, "launch clusters",
             cudaLaunchKernelEx(&config, cluster_kernel, net, at, data, settings, out));
  return true;
}

}  // namespace jpmap
