// Network outputs against what was measured, for one instruction set.
#pragma once

#include "cpu/isa/tile.h"
#include "mlp_network.h"

namespace jpmap {
namespace JPMAP_ISA {

// Adds the terms of f of outputs [begin, end) of one image, out[j - begin], to its sum lanes; with
// kPull also writes df/dout and s^2 w of each to pull and curvature. An output's lane is its number
// modulo kSumLanes, and begin a multiple of that: f does not depend on where a call ends.
template <bool kPull, class T>
static inline __attribute__((always_inline)) void compare(const MlpTarget<T>& t, int64_t begin,
                                                          int64_t end, const T* out, double* lanes,
                                                          T* pull, T* curvature) {
  for (int64_t j = begin; j < end; ++j) {
    const int64_t i = j - begin;
    const T w = t.weight[t.weight_scalar ? 0 : j], s = t.scale == nullptr ? T(1) : t.scale[j];
    const T r = t.target[j] - s * out[i];
    lanes[j % kSumLanes] += static_cast<double>(r) * (w * r);
    if constexpr (kPull) {
      pull[i] = -s * w * r;
      curvature[i] = s * s * w;
    }
  }
}

static inline double sum_of(const double* lanes) {
  double total = 0;
  for (int lane = 0; lane < kSumLanes; ++lane) total += lanes[lane];
  return total;
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
