// x-update of denoising and inpainting with J1 and the coupling gap, in one pass.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstring>

#include "arguments.h"
#include "cpu/pixels.h"

namespace jpmap {
namespace {

// kLanes pixels: r = y - w G,  q = 1 / (w^2 + beta sigma^2),  x = G + w r q;  adds r^2 q, (x -
// G)^2. With beta = inf: x = G, and r^2. Written out as vectors, which the compiler does not find
// by itself behind the sums in double.
template <class T, bool kWeighted, bool kFinite>
struct Pixels {
  typedef T Value __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T Stored __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
  typedef double Wide __attribute__((vector_size(kLanes * sizeof(double))));

  T noise;
  // Without a weight they are the same for every pixel.
  T plain = kFinite ? T(1) / (T(1) + noise) : T(1);
  bool data_outweigh = T(1) > noise;
  Wide weighted{}, gap{};

  JPMAP_INLINE void step(const T* decoded, const T* y, const T* weight, T* x) {
    const Value g = *reinterpret_cast<const Stored*>(decoded);
    const Value v = *reinterpret_cast<const Stored*>(y);
    Value r = v - g;
    Value q = Value{} + plain, d{}, sum = g;
    // Where the data outweigh the prior, G + d would cancel: take the weighted mean instead.
    if constexpr (kWeighted) {
      // One rounding on every processor: J1 is made of what this cancellation leaves.
      T left[kLanes];
      for (int i = 0; i < kLanes; ++i) left[i] = std::fma(-weight[i], decoded[i], y[i]);
      std::memcpy(&r, left, sizeof(r));
      if constexpr (kFinite) {
        const Value w = *reinterpret_cast<const Stored*>(weight);
        const Value square = w * w;
        q = T(1) / (square + noise);
        d = w * r * q;
        sum = square > noise ? (w * v + noise * g) * q : g + d;
      }
    } else if constexpr (kFinite) {
      d = r * q;
      sum = data_outweigh ? (v + noise * g) * q : g + d;
    }
    *reinterpret_cast<Stored*>(x) = sum;
    weighted += __builtin_convertvector(r, Wide) * __builtin_convertvector(r * q, Wide);
    const Wide wide = __builtin_convertvector(d, Wide);
    gap += wide * wide;
  }

  JPMAP_INLINE static double total(const Wide& lanes) {
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += lanes[i];
    return sum;
  }
};

// One chunk of one image. Reads y, w, G and writes x once: 16 bytes a pixel in float32 (12 without
// a weight).
template <class T, bool kWeighted, bool kFinite>
JPMAP_INLINE UpdateSums chunk(const T* decoded, const T* y, const T* weight, T* x, int64_t size,
                              T noise) {
  Pixels<T, kWeighted, kFinite> pixels{noise};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    pixels.step(decoded + i, y + i, kWeighted ? weight + i : nullptr, x + i);
  }
  if (i < size) {
    // The last pixels, filled up with ones that add nothing.
    T tail[4][kLanes] = {};
    for (int64_t k = i; k < size; ++k) {
      tail[0][k - i] = decoded[k];
      tail[1][k - i] = y[k];
      if (kWeighted) tail[2][k - i] = weight[k];
    }
    pixels.step(tail[0], tail[1], tail[2], tail[3]);
    for (int64_t k = i; k < size; ++k) x[k] = tail[3][k - i];
  }
  return {pixels.total(pixels.weighted), pixels.total(pixels.gap)};
}

template <class T>
JPMAP_INLINE UpdateSums any_chunk(const T* decoded, const T* y, const T* weight, T* x, int64_t size,
                                  T noise, bool finite) {
  if (weight != nullptr) {
    return finite ? chunk<T, true, true>(decoded, y, weight, x, size, noise)
                  : chunk<T, true, false>(decoded, y, weight, x, size, noise);
  }
  return finite ? chunk<T, false, true>(decoded, y, weight, x, size, noise)
                : chunk<T, false, false>(decoded, y, weight, x, size, noise);
}

}  // namespace

JPMAP_CLONES UpdateSums update_chunk(const float* decoded, const float* y, const float* weight,
                                     float* x, int64_t size, float noise, bool finite) {
  return any_chunk(decoded, y, weight, x, size, noise, finite);
}

JPMAP_CLONES UpdateSums update_chunk(const double* decoded, const double* y, const double* weight,
                                     double* x, int64_t size, double noise, bool finite) {
  return any_chunk(decoded, y, weight, x, size, noise, finite);
}

namespace {

template <class T>
void x_update(const XUpdateSizes& sizes, const T* decoded, const T* y, const T* weight, const T* z,
              const T* beta, const T* sigma, T* x, T* objective, T* gap) {
  const int64_t n = sizes.pixels, chunks = chunk_count(n);
  std::vector<UpdateSums> partial(sizes.batch * chunks);
  for_each_item(sizes.batch * chunks, std::min(n, kChunk), [&](int64_t item) {
    const int64_t b = item / chunks, begin = (item % chunks) * kChunk;
    const int64_t offset = b * n + begin;
    const double s = sigma[b];
    const T* w = weight;
    if (w != nullptr) w += sizes.weight_per_image ? offset : begin;
    partial[item] =
        update_chunk(decoded + offset, y + offset, w, x + offset, std::min(kChunk, n - begin),
                     static_cast<T>(beta[b] * s * s), !std::isinf(beta[b]));
  });
  for (int64_t b = 0; b < sizes.batch; ++b) {
    UpdateSums total{0, 0};
    for (int64_t c = 0; c < chunks; ++c) {
      total.weighted += partial[b * chunks + c].weighted;
      total.gap += partial[b * chunks + c].gap;
    }
    const T* code = z + b * sizes.latent;
    objective[b] = objective_updated(total, beta[b], sigma[b], code, sizes.latent);
    gap[b] = static_cast<T>(total.gap);
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
