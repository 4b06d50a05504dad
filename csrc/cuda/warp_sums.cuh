// Sums over a warp of many values at once, the sums scattered over its lanes.
#pragma once

#include <cuda_runtime.h>

namespace jpmap {

// Sums kCount values over the lanes of a warp, a few of the sums ending in each lane: those with
// index first, first + 1, ... below first + count.
template <int kCount>
struct ScatteredSums {
  static constexpr int kHalf = (kCount + 1) / 2;

  template <class Use>
  static __device__ __forceinline__ void run(const float (&value)[kCount], int offset, int first,
                                             int count, const Use& use) {
    if (offset == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < count) use(first + i, value[i]);
      }
      return;
    }
    const bool upper = threadIdx.x % 32 & offset;
    float mine[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float high = kHalf + i < kCount ? value[kHalf + i] : 0.0f;
      const float given = __shfl_xor_sync(0xffffffffu, upper ? value[i] : high, offset);
      mine[i] = (upper ? high : value[i]) + given;
    }
    ScatteredSums<kHalf>::run(mine, offset / 2, upper ? first + kHalf : first,
                              upper ? count - kHalf : min(count, kHalf), use);
  }
};
template <>
struct ScatteredSums<1> {
  template <class Use>
  static __device__ __forceinline__ void run(const float (&value)[1], int offset, int first,
                                             int count, const Use& use) {
    float sum = value[0];
    for (; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (count > 0) use(first, sum);
  }
};

// One warp, all lanes: use(i, sum over the lanes of value[i]) for every i, in one lane. Up to
// sixteen sums end in several lanes each: their `use` may store, but not add.
template <int kCount, class Use>
__device__ __forceinline__ void warp_sums(const float (&value)[kCount], const Use& use) {
  ScatteredSums<kCount>::run(value, 16, 0, kCount, use);
}

}  // namespace jpmap
