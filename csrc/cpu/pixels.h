// Sums over the pixels of an image, by chunks, and what J1 is of them: of the operators x_update
// and objective, and of the whole method in mlp_jpmap.
#pragma once

#include <cmath>

#include "cpu/parallel.h"

namespace jpmap {

// sum r^2 q and sum (x - G)^2 of the x-update of a diagonal A, see cpu/x_update.cpp.
struct UpdateSums {
  double weighted, gap;
};

// One chunk of the x-update of one image; `noise` is beta sigma^2, `finite` whether beta is.
UpdateSums update_chunk(const float* decoded, const float* y, const float* weight, float* x,
                        int64_t size, float noise, bool finite);
UpdateSums update_chunk(const double* decoded, const double* y, const double* weight, double* x,
                        int64_t size, double noise, bool finite);

// sum (a - b)^2 over one chunk, sum a^2 without b.
double squares_chunk(const float* a, const float* b, int64_t size);
double squares_chunk(const double* a, const double* b, int64_t size);

// J1 at the x of an update.
template <class T>
T objective_updated(const UpdateSums& sums, T beta, T sigma, const T* z, int64_t latent) {
  const double s = sigma;
  const double factor = std::isinf(beta) ? 1 / (s * s) : static_cast<double>(beta);
  return static_cast<T>(0.5 * factor * sums.weighted + half_squared_norm(z, latent));
}

// J1 at any x: `coupling` is ||x - G||^2, `data` ||y - A x||^2.
template <class T>
T objective_given(double coupling, double data, T beta, T sigma, const T* z, int64_t latent) {
  const double s = sigma;
  const double tied = coupling == 0 ? 0 : 0.5 * static_cast<double>(beta) * coupling;
  return static_cast<T>(data / (2 * s * s) + tied + half_squared_norm(z, latent));
}

// body(begin, size) for every chunk of one image, in their order.
template <class F>
void for_each_chunk(int64_t size, const F& body) {
  for (int64_t begin = 0; begin == 0 || begin < size; begin += kChunk) {
    body(begin, std::min(kChunk, size - begin));
  }
}

template <class T>
double squares(const T* a, const T* b, int64_t size) {
  double total = 0;
  for_each_chunk(size, [&](int64_t begin, int64_t count) {
    total += squares_chunk(a + begin, b == nullptr ? nullptr : b + begin, count);
  });
  return total;
}

}  // namespace jpmap
