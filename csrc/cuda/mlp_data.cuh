// What a network's output is compared with, and where solves start: of a whole batch.
#pragma once

#include <cstdint>

#include "mlp_network.h"

namespace jpmap {

// f is that of MlpTarget.
struct MlpData {
  const float* start;      // [B][k]
  const float* target;     // [B][p]
  const float* weight;     // [B][p] or [B][1]
  const float* scale;      // [p] or [B][p], or null
  const double* constant;  // [B], or null
  const float* law;        // [B][4], or null
  int64_t batch, scale_stride;
  bool weight_scalar;
};

// What one output is compared with.
struct Measured {
  float target, weight, scale;
};

__device__ __forceinline__ Measured measured(const MlpData& data, long long image, int p, int j) {
  return {data.target[image * p + j],
          data.weight_scalar ? data.weight[image] : data.weight[image * p + j],
          data.scale == nullptr ? 1.0f : data.scale[image * data.scale_stride + j]};
}

// How the outputs of an image decide their variances, where they do; see MlpTarget.
struct Law {
  float noise, floor, slope, unit;
  bool given;
};

__device__ __forceinline__ Law law_of(const MlpData& data, long long image) {
  if (data.law == nullptr) return {0.0f, 0.0f, 0.0f, 0.0f, false};
  const float* law = data.law + image * kLawNumbers;
  return {law[0], law[1], law[2], law[3], true};
}

// Twice what an output adds to f, df/dout, and its weight in the Gauss-Newton matrix.
struct Compared {
  double term;
  float pull, precision;
};

__device__ __forceinline__ Compared compare(const Measured& m, const Law& law, float out) {
  const float w = m.weight, s = m.scale, r = m.target - s * out;
  if (!law.given) return {static_cast<double>(r) * (w * r), -s * w * r, s * s * w};
  // Not fminf and fmaxf, which make a number of a NaN.
  const float least = out < 0.0f ? 0.0f : out, g = least > 1.0f ? 1.0f : least;
  const float power = s * s, v = law.noise + power * (law.floor + law.slope * g * (1.0f - g));
  const float weighted = r / v, square = r * weighted;
  const float bend = g == out ? power * law.slope * (1.0f - 2.0f * g) / v : 0.0f;
  return {w * (square + logf(v / (law.noise + power * law.unit))),
          -w * (s * weighted + 0.5f * bend * (square - 1.0f)),
          w * (power / v + 0.5f * bend * bend)};
}

}  // namespace jpmap
