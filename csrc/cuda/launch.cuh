// What every CUDA kernel here shares: groups of threads that own an item, deterministic sums, the
// caller's stream. An item is (image, chunk); where a chunk ends depends on the image's size alone,
// so that no result depends on the batch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

namespace jpmap {

constexpr int kThreads = 256;
constexpr int64_t kWarpItem = 4096;     // up to here an image belongs to one warp
constexpr int64_t kBlockChunk = 16384;  // beyond, its chunks of this size to one block each

inline int64_t chunk_size(int64_t size) { return size <= kWarpItem ? kWarpItem : kBlockChunk; }

inline int64_t chunk_count(int64_t size) {
  return std::max<int64_t>(1, (size + chunk_size(size) - 1) / chunk_size(size));
}

// For calls of our own. Their error is reported here and taken from the runtime's last error, so
// that no later check finds it again as its own.
inline void check_cuda(const char* op, const char* task, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  STD_TORCH_CHECK(false, op, ": cannot ", task, ": ", cudaGetErrorString(error));
}

// Lets a kernel have up to `bytes` of dynamic shared memory. Always the most it may ever take: the
// limit is the kernel's, not the launch's, and a lower one set by another thread would fail this
// thread's launch.
template <class Kernel>
void allow_shared_memory(const char* op, Kernel kernel, int64_t bytes) {
  check_cuda(op, "reserve shared memory",
             cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
}

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &stream) == 0,
                  "jpmap: cannot get the current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

// Sum over the group of kGroup threads (a warp, or the whole block); every thread gets it.
template <int kGroup>
__device__ inline double group_sum(double value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if constexpr (kGroup > 32) {
    __shared__ double warps[kGroup / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int i = 0; i < kGroup / 32; ++i) value += warps[i];
  }
  return value;
}

template <int kGroup, class T>
__device__ inline double half_squared_norm(const T* z, int64_t latent, int rank) {
  double total = 0;
  for (int64_t i = rank; i < latent; i += kGroup) total += static_cast<double>(z[i]) * z[i];
  return 0.5 * group_sum<kGroup>(total);
}

// Blocks of kThreads for `items` groups of kGroup threads.
template <int kGroup>
unsigned int blocks_for(int64_t items) {
  constexpr int64_t each = kThreads / kGroup;
  return static_cast<unsigned int>((items + each - 1) / each);
}

}  // namespace jpmap
