// Whole solves for a few images: lowest latency, not highest throughput.
//
// A cluster of sixteen blocks works on one image at a time. Block r holds the r-th part of every
// layer's neurons: their weights stay in its shared memory for the whole launch (those that do not
// fit are read from the L2 cache). A step is
//   values and tangents of every layer, gathered by all blocks layer by layer (cluster_forward);
//   the way back, each layer's cotangents scattered to their neurons' owners (cluster_backward),
//   but of a descent's last trial; one exchange of partial sums: f, gradient and the two matrices
//   (cluster_sums),
// after which every block does the same k x k algebra (cluster_solve). Everything is float32 with
// sums in fixed order: the result of an image depends on nothing else. cluster_layout.cuh says what
// lies where and which barrier stands between its writer and its reader.
#include <algorithm>

#include "cuda/cluster_launch.cuh"
#include "cuda/cluster_solve.cuh"
#include "cuda/mlp_cluster.cuh"

namespace jpmap {
namespace {

using namespace clusters;

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
    load_measurements(block, data, next);
    begin_descent(block, data.start + next * net.latent, next);
    __syncthreads();  // fetched
    descend(block, settings, out, known_of(settings, next, net.latent), block.rank == 0);
  }
  cluster.sync();  // left
#else
  __trap();  // never launched; were it, no result may look like one
#endif
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
  ClusterLaunch launch(bytes, stream);
  const int resident = launch.resident(op, cluster_kernel, room);
  if (resident == 0) return false;
  launch.run(op, cluster_kernel, std::min<int64_t>(resident, data.batch), net, at, data, settings,
             out);
  return true;
}

}  // namespace jpmap
