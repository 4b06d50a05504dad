// How the CPU kernels divide their work: items are (image, chunk), and where a chunk ends depends
// on the image's size alone, so that no result depends on the batch or on the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

// One clone for each instruction set, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define JPMAP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define JPMAP_CLONES
#endif
#define JPMAP_INLINE inline __attribute__((always_inline))

namespace jpmap {

constexpr int64_t kChunk = 16384;
constexpr int kLanes = 16;
constexpr int64_t kGrain = 32768;  // elements that repay waking a thread

inline int64_t chunk_count(int64_t size) {
  return std::max<int64_t>(1, (size + kChunk - 1) / kChunk);
}

// Sum of the lanes, always in the same order.
JPMAP_INLINE double lane_sum(const double* lanes) {
  double total = 0;
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// body(item) for every item, `size` elements each.
template <class F>
void for_each_item(int64_t items, int64_t size, const F& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, size));
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) body(item);
  });
}

// 1/2 ||z||^2 of one image.
template <class T>
JPMAP_INLINE double half_squared_norm(const T* z, int64_t latent) {
  double total = 0;
  for (int64_t i = 0; i < latent; ++i) total += static_cast<double>(z[i]) * z[i];
  return 0.5 * total;
}

}  // namespace jpmap
