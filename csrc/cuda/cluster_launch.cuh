// Launches of kernels that run in clusters of blocks.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include "cluster_support.h"
#include "cuda/cluster_layout.cuh"
#include "cuda/launch.cuh"

namespace jpmap {
namespace clusters {

class ClusterLaunch {
 public:
  ClusterLaunch(int bytes, cudaStream_t stream) {
    attribute_.id = cudaLaunchAttributeClusterDimension;
    attribute_.val.clusterDim.x = kBlocks;
    attribute_.val.clusterDim.y = attribute_.val.clusterDim.z = 1;
    config_.gridDim = dim3(kBlocks);
    config_.blockDim = dim3(kBlockThreads);
    config_.dynamicSmemBytes = bytes;
    config_.stream = stream;
    config_.attrs = &attribute_;
    config_.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;  // the configuration points into it
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  // The clusters of a kernel that run at the same time, 0 where there can be none. Asked once a
  // kernel, device and size, whose answer does not change.
  template <class Kernel>
  int resident(const char* op, Kernel kernel, int room) {
    static std::mutex guard;
    static std::map<std::tuple<const void*, int, size_t>, int> known;
    int device = 0;
    check_cuda(op, "look up the device", cudaGetDevice(&device));
    const std::tuple key{reinterpret_cast<const void*>(kernel), device, config_.dynamicSmemBytes};
    const std::lock_guard<std::mutex> lock(guard);
    const auto at = known.find(key);
    if (at != known.end()) return at->second;
    return known[key] = count(op, kernel, room);
  }

  template <class Kernel, class... Arguments>
  void run(const char* op, Kernel kernel, int64_t clusters, const Arguments&... arguments) {
    config_.gridDim = dim3(static_cast<unsigned int>(kBlocks * clusters));
    check_cuda(op, "launch clusters", cudaLaunchKernelEx(&config_, kernel, arguments...));
  }

 private:
  template <class Kernel>
  int count(const char* op, Kernel kernel, int room) {
    cudaFuncAttributes code{};
    check_cuda(op, "look up the cluster kernel", cudaFuncGetAttributes(&code, kernel));
    if (!holds_clusters(code.ptxVersion, code.binaryVersion)) return 0;
    allow_shared_memory(op, kernel, room);
    int found = 0;
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&found, kernel, &config_);
    if (too_large(error)) {
      cudaGetLastError();  // the answer to our question, and nobody else's error
      return 0;
    }
    check_cuda(op, "count the clusters that fit", error);
    return found;
  }

  // Whether an error says that the device has no room for clusters of this size.
  static bool too_large(cudaError_t error) {
    return error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration ||
           error == cudaErrorInvalidClusterSize || error == cudaErrorNotSupported;
  }

  cudaLaunchAttribute attribute_{};
  cudaLaunchConfig_t config_{};
};

}  // namespace clusters
}  // namespace jpmap
