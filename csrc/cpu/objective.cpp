// J1 and the coupling gap of given x, G(z), residual and z.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "arguments.h"
#include "cpu/pixels.h"

namespace jpmap {
namespace {

// sum (a - b)^2 over one chunk, sum a^2 without b. Reads each element once.
template <class T, bool kDifference>
JPMAP_INLINE double chunk(const T* __restrict__ a, const T* __restrict__ b, int64_t size) {
  double lanes[kLanes] = {};
  const auto step = [&](int64_t i, int lane) {
    const T d = kDifference ? a[i] - b[i] : a[i];
    lanes[lane] += static_cast<double>(d) * d;
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) step(i + lane, lane);
  }
  for (int lane = 0; i < size; ++i, ++lane) step(i, lane);
  return lane_sum(lanes);
}

template <class T>
JPMAP_INLINE double any_chunk(const T* a, const T* b, int64_t size) {
  return b != nullptr ? chunk<T, true>(a, b, size) : chunk<T, false>(a, b, size);
}

}  // namespace

JPMAP_CLONES double squares_chunk(const float* a, const float* b, int64_t size) {
  return any_chunk(a, b, size);
}

JPMAP_CLONES double squares_chunk(const double* a, const double* b, int64_t size) {
  return any_chunk(a, b, size);
}

namespace {

template <class T>
void evaluate(const ObjectiveSizes& sizes, const T* x, const T* decoded, const T* residual,
              const T* z, const T* beta, const T* sigma, T* objective, T* gap) {
  const int64_t n = sizes.pixels, m = sizes.measurements;
  const int64_t pixel_chunks = chunk_count(n), chunks = pixel_chunks + chunk_count(m);
  std::vector<double> partial(sizes.batch * chunks);
  for_each_item(sizes.batch * chunks, std::min(std::max(n, m), kChunk), [&](int64_t item) {
    const int64_t b = item / chunks, c = item % chunks;
    if (c < pixel_chunks) {
      const int64_t begin = c * kChunk, offset = b * n + begin;
      partial[item] = squares_chunk(x + offset, decoded + offset, std::min(kChunk, n - begin));
    } else {
      const int64_t begin = (c - pixel_chunks) * kChunk;
      partial[item] = squares_chunk(residual + b * m + begin, static_cast<const T*>(nullptr),
                                    std::min(kChunk, m - begin));
    }
  });
  for (int64_t b = 0; b < sizes.batch; ++b) {
    double coupling = 0, data = 0;
    for (int64_t c = 0; c < chunks; ++c) {
      (c < pixel_chunks ? coupling : data) += partial[b * chunks + c];
    }
    const T* code = z + b * sizes.latent;
    objective[b] = objective_given(coupling, data, beta[b], sigma[b], code, sizes.latent);
    gap[b] = coupling;
  }
}

std::tuple<Tensor, Tensor> objective(Tensor x, Tensor decoded, Tensor residual, Tensor z,
                                     Tensor beta, Tensor sigma) {
  const auto sizes = check_objective(x, decoded, residual, z, beta, sigma);
  Tensor value = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  dispatch_floating("objective", x, [&](auto zero) {
    using T = decltype(zero);
    evaluate<T>(sizes, read<T>(x), read<T>(decoded), read<T>(residual), read<T>(z), read<T>(beta),
                read<T>(sigma), write<T>(value), write<T>(gap));
  });
  return {value, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) { m.impl("objective", TORCH_BOX(&objective)); }

}  // namespace jpmap
