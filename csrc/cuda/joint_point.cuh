// A point of J1, a number at a time: the best x, what it adds to J1, the gap, and how far it is
// from the state. Who adds up what, clusters and tiles say themselves.
#pragma once

#include "cuda/joint_data.cuh"

namespace jpmap {

constexpr int kPointSums = 3;  // of the data term, of the gap, of how far x has moved

// How much an image's x is tied to G(z).
struct Tie {
  float noise;  // beta sigma^2
  bool tied;    // x = G(z): beta is infinite
};

// Of a diagonal A. As the other operators have it, each in the order that they multiply in.
__device__ __forceinline__ Tie tie_of(const JointInput& in, int64_t image) {
  const double s = in.sigma[image], beta = in.beta[image];
  return {static_cast<float>(beta * s * s), isinf(beta)};
}

// Of A = U H.
__device__ __forceinline__ float noise_of(const JointInput& in, int64_t image) {
  return in.beta[image] * (in.sigma[image] * in.sigma[image]);
}

// A pixel's measurement, and what a diagonal A multiplies it by.
struct Pixel {
  float y, m;
};

__device__ __forceinline__ Pixel pixel_of(const JointInput& in, int64_t image, int j) {
  return {in.y[image * in.pixels + j],
          in.mask == nullptr ? 1.0f : in.mask[image * in.mask_stride + j]};
}

// That pixel of x, as cuda/x_update.cu, where G is g and the state's pixel is `old`. A kernel may
// have it in several places, and in each the compiler would choose what to round: so it is told.
__device__ __forceinline__ float update_pixel(const Tie& tie, const Pixel& pixel, float g,
                                              float old, bool published,
                                              double (&sums)[kPointSums]) {
  const float y = pixel.y, m = pixel.m;
  float x, d;
  if (published) {
    x = __fmul_rn(m, y);
    d = x - g;
    const float r = fmaf(-m, x, y);
    sums[0] += static_cast<double>(r) * r;
  } else {
    const float r = fmaf(-m, g, y);
    const float q = tie.tied ? 1.0f : 1.0f / fmaf(m, m, tie.noise);
    d = tie.tied ? 0.0f : m * r * q;
    // Where the data outweigh the prior, G + d would cancel: take the weighted mean instead.
    x = !tie.tied && m * m > tie.noise ? __fmul_rn(fmaf(tie.noise, g, m * y), q) : __fadd_rn(g, d);
    sums[0] += static_cast<double>(r) * (r * q);
  }
  sums[1] += static_cast<double>(d) * d;
  const double moved = x - old;
  sums[2] += moved * moved;
  return x;
}

// Gain of a number of A = U H with its value of `values`, whose target is U^T y and of which H G,
// or H x of a published x, is `measured`: a division in the coordinates of U, see
// jpmap_fast/operators/spectral.py.
__device__ __forceinline__ float gain_of(float value, float noise, float target, float measured,
                                         bool published, double& data) {
  const float innovation = target - measured;
  const float gain = innovation / __fadd_rn(value, noise);
  const float r = published ? innovation : fmaf(-value, gain, innovation);
  data += static_cast<double>(r) * r;
  return gain;
}

// What a pixel of x for A = U H adds.
__device__ __forceinline__ void add_pixel(float x, float g, float old, double (&sums)[kPointSums]) {
  const float d = x - g;
  const double moved = x - old;
  sums[1] += static_cast<double>(d) * d;
  sums[2] += moved * moved;
}

struct WeighedPoint {
  float objective, gap;
  double moved;
};

// J1, gap and distance from the state's z of the point at a code, from the sums over all of it.
// `constant` is that of the descents, or null. Not inlined: with the same bits wherever it is
// asked.
static __device__ __noinline__ WeighedPoint
weighed_point(const JointInput& in, const double* constant, int64_t image, bool published,
              const double (&sums)[kPointSums], const float* code, const float* state, int k) {
  const double s = in.sigma[image], beta = in.beta[image];
  double norm = 0, apart = 0;
  for (int c = 0; c < k; ++c) {
    const double z = code[c], moved = code[c] - state[c];
    norm += z * z;
    apart += moved * moved;
  }
  double value = 0.5 * norm;
  if (published || in.values != nullptr) {
    value += sums[0] / (2 * s * s) + (sums[1] == 0 ? 0 : 0.5 * beta * sums[1]);
    // What no x can explain; of a diagonal A all pixels are among the sums.
    if (in.values != nullptr && constant != nullptr) value += constant[image];
  } else {
    value += 0.5 * (isinf(beta) ? 1 / (s * s) : beta) * sums[0];
  }
  return {static_cast<float>(value), static_cast<float>(sums[1]),
          sqrt(sums[2] / in.pixels) + sqrt(apart / k)};
}

}  // namespace jpmap
