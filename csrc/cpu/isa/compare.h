// Network outputs against what was measured, for one instruction set.
#pragma once

#include "cpu/isa/activation.h"
#include "cpu/isa/tile.h"
#include "mlp_network.h"

namespace jpmap {
namespace JPMAP_ISA {

// The terms of a panel's outputs where these decide their variances; r = t - s out:
//   df/dout = -w (s r / v + v' (r^2 / v - 1) / (2 v)),   Fisher's weight w (s^2 / v + (v' / v)^2 /
//   2)
template <bool kPull, class T>
static inline void compare_by_law(const MlpTarget<T>& t, int64_t begin, int64_t count, const T* out,
                                  double* lanes, T* pull, T* curvature) {
  using V = typename Lanes<T>::Value;
  using Stored = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const T noise = t.law[0], floor = t.law[1], slope = t.law[2], unit = t.law[3];
  // What fills the panel up is not seen, with a variance that divides.
  T target[kPanel<T>] = {}, weight[kPanel<T>] = {}, scale[kPanel<T>], value[kPanel<T>] = {};
  T term[kPanel<T>], pulls[kPanel<T>], curvatures[kPanel<T>];
  for (int64_t i = 0; i < kPanel<T>; ++i) scale[i] = T(1);
  for (int64_t i = 0; i < count; ++i) {
    target[i] = t.target[begin + i];
    weight[i] = t.weight[t.weight_scalar ? 0 : begin + i];
    if (t.scale != nullptr) scale[i] = t.scale[begin + i];
    value[i] = out[i];
  }
  for (int at = 0; at < kPanel<T>; at += kWidth) {
    const auto load = [&](const T* from) -> V {
      return *reinterpret_cast<const Stored*>(from + at);
    };
    const auto store = [&](T* to, V x) { *reinterpret_cast<Stored*>(to + at) = x; };
    const V w = load(weight), s = load(scale), x = load(value), power = s * s;
    V g = x < T(0) ? V{} : x;
    g = g > T(1) ? V{} + T(1) : g;
    const V v = noise + power * (floor + slope * g * (T(1) - g));
    const V r = load(target) - s * x, weighted = r / v, square = r * weighted;
    store(term, w * (square + log_of<T>(v / (noise + power * unit))));
    if constexpr (kPull) {
      const V bend = g == x ? power * slope * (T(1) - T(2) * g) / v : V{};
      store(pulls, -w * (s * weighted + T(0.5) * bend * (square - T(1))));
      store(curvatures, w * (power / v + T(0.5) * bend * bend));
    }
  }
  for (int64_t i = 0; i < kPanel<T>; ++i) lanes[i % kSumLanes] += static_cast<double>(term[i]);
  if constexpr (kPull) {
    for (int64_t i = 0; i < count; ++i) {
      pull[i] = pulls[i];
      curvature[i] = curvatures[i];
    }
  }
}

// Adds the terms of f of outputs [begin, end) of one image, out[j - begin], to its sum lanes; with
// kPull also writes df/dout and the weight in the Gauss-Newton matrix of each to pull and
// curvature. Outputs are summed by panels, and begin is where one begins: f does not depend on
// where a call ends.
template <bool kPull, class T>
static inline __attribute__((always_inline)) void compare(const MlpTarget<T>& t, int64_t begin,
                                                          int64_t end, const T* out, double* lanes,
                                                          T* pull, T* curvature) {
  if (t.law != nullptr) {
    for (int64_t at = begin; at < end; at += kPanel<T>) {
      const int64_t left = end - at, i = at - begin;
      compare_by_law<kPull>(t, at, left < kPanel<T> ? left : kPanel<T>, out + i, lanes,
                            kPull ? pull + i : pull, kPull ? curvature + i : curvature);
    }
    return;
  }
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
