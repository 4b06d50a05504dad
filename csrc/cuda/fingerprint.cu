// What tells a tensor's numbers from others (fingerprint): a sum over chains of its words, one of
// each thread. The sum is of integers, so that nobody's order matters.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.cuh"
#include "fingerprint.h"

namespace jpmap {
namespace {

constexpr int64_t kPiece = 1 << 14;  // bytes of a block
constexpr int kTensors = 64;         // of a launch

struct Launch {
  Bytes tensors[kTensors];
  int first[kTensors + 1];  // block of each
};

__global__ void __launch_bounds__(kThreads)
    fingerprint_kernel(const __grid_constant__ Launch launch, unsigned long long* out) {
  int tensor = 0;
  while (static_cast<int>(blockIdx.x) >= launch.first[tensor + 1]) ++tensor;
  const int64_t piece = blockIdx.x - launch.first[tensor], begin = piece * kPiece;
  const unsigned char* at = launch.tensors[tensor].begin + begin;
  const int64_t count = min(kPiece, launch.tensors[tensor].count - begin);
  uint64_t chain = 0;
  const bool whole = reinterpret_cast<uintptr_t>(at) % 16 == 0;
  for (int64_t i = 16 * threadIdx.x; i < count; i += 16 * kThreads) {
    if (whole && i + 16 <= count) {
      const ulonglong2 words = *reinterpret_cast<const ulonglong2*>(at + i);
      chain = chained(chained(chain, words.x), words.y);
    } else {
      chain = chained(chained(chain, last_word(at + i, count - i)),
                      last_word(at + i + 8, count - i - 8));
    }
  }
  uint64_t sum = mixed(chain, piece * kThreads + threadIdx.x);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) atomicAdd(out + tensor, static_cast<unsigned long long>(sum));
}

Tensor fingerprint(std::vector<Tensor> tensors) {
  const std::vector<Bytes> all = check_fingerprint(tensors);
  const torch::stable::accelerator::DeviceGuard guard(tensors[0].get_device());
  const int64_t number = static_cast<int64_t>(all.size());
  Tensor out = torch::stable::new_zeros(tensors[0], {number}, torch::headeronly::ScalarType::Long);
  auto* found = reinterpret_cast<unsigned long long*>(write<int64_t>(out));
  for (int64_t begin = 0; begin < number; begin += kTensors) {
    Launch launch;
    const int tensors_here = static_cast<int>(std::min<int64_t>(kTensors, number - begin));
    int64_t blocks = 0;
    launch.first[0] = 0;
    for (int i = 0; i < tensors_here; ++i) {
      launch.tensors[i] = all[begin + i];
      blocks += (all[begin + i].count + kPiece - 1) / kPiece;
      STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "fingerprint: expected smaller tensors");
      launch.first[i + 1] = static_cast<int>(blocks);
    }
    if (blocks == 0) continue;
    fingerprint_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, current_stream(tensors[0])>>>(
        launch, found + begin);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) { m.impl("fingerprint", TORCH_BOX(&fingerprint)); }

}  // namespace jpmap
