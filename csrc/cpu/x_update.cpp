// x-update of denoising and inpainting with J1 and the coupling gap, in one pass.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "arguments.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

struct Sums {
  double weighted, gap;
};

// One chunk of one image:
//   r = y - w G,  q = 1 / (w^2 + beta sigma^2),  x = G + w r q;  returns sum r^2 q, sum (x - G)^2.
// With beta = inf: x = G, and sum r^2. Reads y, w, G and writes x once: 16 bytes a pixel in float32
// (12 without a weight). The residual takes one fused multiply-add, so its cancellation is exact.
template <class T, bool kWeighted, bool kFinite>
JPMAP_INLINE Sums chunk(const T* __restrict__ decoded, const T* __restrict__ y,
                        const T* __restrict__ weight, T* __restrict__ x, int64_t size, T noise) {
  double weighted[kLanes] = {}, gap[kLanes] = {};
  const auto step = [&](int64_t i, int lane) {
    const T w = kWeighted ? weight[i] : T(1);
    const T r = kWeighted ? std::fma(-w, decoded[i], y[i]) : y[i] - decoded[i];
    const T q = kFinite ? T(1) / (w * w + noise) : T(1);
    const T d = kFinite ? w * r * q : T(0);
    // Where the data outweigh the prior, G + d would cancel: take the weighted mean instead.
    x[i] = kFinite && w * w > noise ? (w * y[i] + noise * decoded[i]) * q : decoded[i] + d;
    weighted[lane] += static_cast<double>(r) * (r * q);
    gap[lane] += static_cast<double>(d) * d;
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) step(i + lane, lane);
  }
  for (int lane = 0; i < size; ++i, ++lane) step(i, lane);
  return {lane_sum(weighted), lane_sum(gap)};
}

template <class T>
JPMAP_INLINE Sums any_chunk(const T* decoded, const T* y, const T* weight, T* x, int64_t size,
                            T noise, bool finite) {
  if (weight != nullptr) {
    return finite ? chunk<T, true, true>(decoded, y, weight, x, size, noise)
                  : chunk<T, true, false>(decoded, y, weight, x, size, noise);
  }
  return finite ? chunk<T, false, true>(decoded, y, weight, x, size, noise)
                : chunk<T, false, false>(decoded, y, weight, x, size, noise);
}

JPMAP_CLONES Sums run(const float* decoded, const float* y, const float* weight, float* x,
                      int64_t size, float noise, bool finite) {
  return any_chunk(decoded, y, weight, x, size, noise, finite);
}

JPMAP_CLONES Sums run(const double* decoded, const double* y, const double* weight, double* x,
                      int64_t size, double noise, bool finite) {
  return any_chunk(decoded, y, weight, x, size, noise, finite);
}

template <class T>
void x_update(const XUpdateSizes& sizes, const T* decoded, const T* y, const T* weight, const T* z,
              const T* beta, const T* sigma, T* x, T* objective, T* gap) {
  const int64_t n = sizes.pixels, chunks = chunk_count(n);
  std::vector<Sums> partial(sizes.batch * chunks);
  for_each_item(sizes.batch * chunks, std::min(n, kChunk), [&](int64_t item) {
    const int64_t b = item / chunks, begin = (item % chunks) * kChunk;
    const int64_t offset = b * n + begin;
    const double s = sigma[b];
    const T* w = weight;
    if (w != nullptr) w += sizes.weight_per_image ? offset : begin;
    partial[item] = run(decoded + offset, y + offset, w, x + offset, std::min(kChunk, n - begin),
                        static_cast<T>(beta[b] * s * s), !std::isinf(beta[b]));
  });
  for (int64_t b = 0; b < sizes.batch; ++b) {
    double weighted = 0, coupling = 0;
    for (int64_t c = 0; c < chunks; ++c) {
      weighted += partial[b * chunks + c].weighted;
      coupling += partial[b * chunks + c].gap;
    }
    const double s = sigma[b];
    const double factor = std::isinf(beta[b]) ? 1 / (s * s) : static_cast<double>(beta[b]);
    objective[b] = 0.5 * factor * weighted + half_squared_norm(z + b * sizes.latent, sizes.latent);
    gap[b] = coupling;
  }
}

std::tuple<Tensor, Tensor, Tensor> x_update_diagonal(Tensor decoded, Tensor y,
                                                     std::optional<Tensor> weight, Tensor z,
                                                     Tensor beta, Tensor sigma) {
  const auto sizes = check_x_update(decoded, y, weight, z, beta, sigma);
  Tensor x = torch::stable::empty_like(decoded);
  Tensor objective = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  dispatch_floating("x_update_diagonal", decoded, [&](auto zero) {
    using T = decltype(zero);
    x_update<T>(sizes, read<T>(decoded), read<T>(y), weight ? read<T>(*weight) : nullptr,
                read<T>(z), read<T>(beta), read<T>(sigma), write<T>(x), write<T>(objective),
                write<T>(gap));
  });
  return {x, objective, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("x_update_diagonal", TORCH_BOX(&x_update_diagonal));
}

}  // namespace jpmap
