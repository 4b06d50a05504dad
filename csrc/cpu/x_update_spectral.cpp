// x-update of blur and super-resolution between the Fourier transforms, with J1 and the coupling
// gap, in one pass.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "cpu/parallel.h"
#include "spectral_sizes.h"

namespace jpmap {
namespace {

struct Sums {
  double weighted, gap;
};

template <class T>
struct Rows {
  const T* decoded;  // [H, W / 2 + 1, 2] of this image and channel
  const T* kernel;   // the same of h
  const T* y;        // [H / f, W / f / 2 + 1, 2]
  T* step;           // as decoded
  int64_t height, width, factor;
  int64_t begin, end;  // rows of y
  T noise;             // beta sigma^2
  bool finite;         // beta < inf
};

// Frequencies that a real image's half spectrum holds once: the first column, and the last one of
// an even width. All others count twice.
inline bool once(int64_t v, int64_t width) { return v == 0 || 2 * v == width; }

// What a small frequency's residual r and power p = mean |h|^2 give: q = 1 / (p + beta sigma^2).
template <class T>
JPMAP_INLINE void add(Sums& sums, double count, T re, T im, T power, T q, bool finite) {
  const double square = static_cast<double>(re) * re + static_cast<double>(im) * im;
  sums.weighted += count * square * q;
  if (finite) sums.gap += count * square * q * q * power;
}

// kLanes numbers of interleaved complex ones, each of which holds the sums of both its halves:
//   r = y - h G,  p = |h|^2,  q = 1 / (p + beta sigma^2),  step = conj(h) r q;  adds |r|^2 q and
// |r q|^2 p.
template <class T, bool kFinite>
struct Frequencies {
  typedef T Value __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T Stored __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
  typedef double Wide __attribute__((vector_size(kLanes * sizeof(double))));

  T noise, scale;
  Wide weighted{}, gap{};

  JPMAP_INLINE static Value real(const Value& v) {
    return __builtin_shufflevector(v, v, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  }
  JPMAP_INLINE static Value imaginary(const Value& v) {
    return __builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
  }
  JPMAP_INLINE static Value turned(const Value& v) {  // times i, but for the sign of the real part
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  }

  JPMAP_INLINE void step(const T* decoded, const T* kernel, const T* y, T* out) {
    const Value sign = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    const Value g = *reinterpret_cast<const Stored*>(decoded);
    const Value h = *reinterpret_cast<const Stored*>(kernel);
    const Value target = *reinterpret_cast<const Stored*>(y);
    const Value hr = real(h), hi = imaginary(h) * sign;
    const Value r = target - (hr * g + hi * turned(g));
    const Value power = h * h + turned(h * h);
    Value q = Value{} + T(1);
    if constexpr (kFinite) q = T(1) / (power + noise);
    const Value gain = r * q;
    const Value scaled = gain * scale;
    *reinterpret_cast<Stored*>(out) = hr * scaled - hi * turned(scaled);
    const Wide wide = __builtin_convertvector(gain, Wide);
    weighted += __builtin_convertvector(r, Wide) * wide;
    if constexpr (kFinite) gap += wide * __builtin_convertvector(gain * power, Wide);
  }

  JPMAP_INLINE Sums total() const {
    Sums sums{0, 0};
    for (int i = 0; i < kLanes; ++i) sums.weighted += weighted[i], sums.gap += gap[i];
    return sums;
  }
};

// A run of `size` numbers at a time, every frequency counted twice.
template <class T, bool kFinite>
JPMAP_INLINE Sums blur_run(const T* decoded, const T* kernel, const T* y, T* step, int64_t size,
                           T noise, T scale) {
  Frequencies<T, kFinite> frequencies{noise, scale};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    frequencies.step(decoded + i, kernel + i, y + i, step + i);
  }
  if (i < size) {
    // The last ones, filled up with zeros that add nothing.
    T tail[4][kLanes] = {};
    for (int64_t k = i; k < size; ++k) {
      tail[0][k - i] = decoded[k];
      tail[1][k - i] = kernel[k];
      tail[2][k - i] = y[k];
    }
    if (kFinite && noise == 0) std::fill(tail[1] + (size - i), tail[1] + kLanes, T(1));
    frequencies.step(tail[0], tail[1], tail[2], tail[3]);
    for (int64_t k = i; k < size; ++k) step[k] = tail[3][k - i];
  }
  const Sums sums = frequencies.total();
  return {2 * sums.weighted, 2 * sums.gap};
}

// Rows for f = 1, which lie side by side. Reads y, G and h, writes the step: 32 bytes a frequency
// in float32.
template <class T, bool kFinite>
JPMAP_INLINE Sums blur_rows(const Rows<T>& a) {
  const int64_t columns = a.width / 2 + 1, offset = 2 * a.begin * columns;
  const T scale = kFinite ? T(1) / (static_cast<T>(a.height) * a.width) : T(0);
  const T *g = a.decoded + offset, *h = a.kernel + offset, *y = a.y + offset;
  Sums sums = blur_run<T, kFinite>(g, h, y, a.step + offset, 2 * (a.end - a.begin) * columns,
                                   a.noise, scale);
  // Columns that a half spectrum holds once were counted twice.
  for (int64_t row = 0; row < a.end - a.begin; ++row) {
    for (const int64_t column : {int64_t(0), columns - 1}) {
      if (!once(column, a.width)) continue;
      const int64_t at = 2 * (row * columns + column);
      const T hr = h[at], hi = h[at + 1];
      const T re = y[at] - (hr * g[at] - hi * g[at + 1]);
      const T im = y[at + 1] - (hr * g[at + 1] + hi * g[at]);
      const T power = hr * hr + hi * hi;
      add(sums, -1, re, im, power, kFinite ? T(1) / (power + a.noise) : T(1), kFinite);
      if (columns == 1) break;
    }
  }
  return sums;
}

// Row u for any f: the f^2 aliases of every small frequency are read where the half spectrum holds
// them, as they are or mirrored and conjugated, and the step is written to the same places.
template <class T>
JPMAP_INLINE Sums folded_row(const Rows<T>& a, int64_t u, T* __restrict__ scratch) {
  const int64_t f = a.factor, columns = a.width / 2 + 1;
  const int64_t low_height = a.height / f, low_width = a.width / f, count = low_width / 2 + 1;
  const T* y = a.y + 2 * u * count;
  T* __restrict__ re = scratch;
  T* __restrict__ im = scratch + count;
  T* __restrict__ power = scratch + 2 * count;
  std::fill(scratch, scratch + 3 * count, T(0));
  // Columns v of alias (i, j) that the half spectrum holds as they are; the others are mirrored.
  const auto direct = [&](int64_t j) {
    return std::max<int64_t>(0, std::min(count, a.width / 2 - j * low_width + 1));
  };
  for (int64_t i = 0; i < f; ++i) {
    const int64_t k = u + i * low_height, mirror = (a.height - k) % a.height;
    for (int64_t j = 0; j < f; ++j) {
      const int64_t border = direct(j);
      const int64_t here = 2 * (k * columns + j * low_width);
      const int64_t there = 2 * (mirror * columns + a.width - j * low_width);
      const auto gather = [&](int64_t v, int64_t at, T sign) {
        const T hr = a.kernel[at], hi = a.kernel[at + 1];
        const T gr = a.decoded[at], gi = a.decoded[at + 1];
        re[v] += hr * gr - hi * gi;
        im[v] += sign * (hr * gi + hi * gr);
        power[v] += hr * hr + hi * hi;
      };
      for (int64_t v = 0; v < border; ++v) gather(v, here + 2 * v, T(1));
      for (int64_t v = border; v < count; ++v) gather(v, there - 2 * v, T(-1));
    }
  }
  Sums sums{0, 0};
  const T mean = T(1) / static_cast<T>(f * f);
  const T scale = a.finite ? T(1) / (static_cast<T>(a.height) * a.width) : T(0);
  for (int64_t v = 0; v < count; ++v) {
    const T rr = y[2 * v] - mean * re[v], ri = y[2 * v + 1] - mean * im[v];
    const T p = mean * power[v], q = a.finite ? T(1) / (p + a.noise) : T(1);
    add(sums, once(v, low_width) ? 1.0 : 2.0, rr, ri, p, q, a.finite);
    re[v] = rr * q * scale;
    im[v] = ri * q * scale;
  }
  for (int64_t i = 0; i < f; ++i) {
    const int64_t k = u + i * low_height, mirror = (a.height - k) % a.height;
    for (int64_t j = 0; j < f; ++j) {
      const int64_t border = direct(j);
      const int64_t here = 2 * (k * columns + j * low_width);
      const int64_t there = 2 * (mirror * columns + a.width - j * low_width);
      const auto scatter = [&](int64_t v, int64_t at, T sign) {
        const T hr = a.kernel[at], hi = a.kernel[at + 1], gi = sign * im[v];
        a.step[at] = hr * re[v] + hi * gi;
        a.step[at + 1] = hr * gi - hi * re[v];
      };
      for (int64_t v = 0; v < border; ++v) scatter(v, here + 2 * v, T(1));
      for (int64_t v = border; v < count; ++v) {
        // Mirrors of a column held once belong to the row at -u, which writes them directly.
        if (!once(v, low_width)) scatter(v, there - 2 * v, T(-1));
      }
    }
  }
  return sums;
}

template <class T>
JPMAP_INLINE Sums any_rows(const Rows<T>& a, T* scratch) {
  if (a.factor == 1) return a.finite ? blur_rows<T, true>(a) : blur_rows<T, false>(a);
  Sums sums{0, 0};
  for (int64_t u = a.begin; u < a.end; ++u) {
    const Sums row = folded_row(a, u, scratch);
    sums.weighted += row.weighted;
    sums.gap += row.gap;
  }
  return sums;
}

JPMAP_CLONES Sums run(const Rows<float>& a, float* scratch) { return any_rows(a, scratch); }
JPMAP_CLONES Sums run(const Rows<double>& a, double* scratch) { return any_rows(a, scratch); }

template <class T>
void x_update(const SpectralSizes& s, const T* decoded, const T* y, const T* kernel, const T* z,
              const T* beta, const T* sigma, T* step, T* objective, T* gap) {
  // An item is a group of rows of one channel; its size depends on the image's alone.
  const int64_t rows = s.low_height;
  const int64_t row_size = 2 * s.factor * s.factor * s.low_columns;
  const int64_t group = std::min(rows, std::max<int64_t>(1, kChunk / row_size));
  const int64_t groups = (rows + group - 1) / group, each = s.channels * groups;
  const int64_t plane = 2 * s.height * s.columns, low_plane = 2 * rows * s.low_columns;
  std::vector<Sums> partial(s.batch * each);
  for_each_item(s.batch * each, group * row_size, [&](int64_t item) {
    thread_local std::vector<T> scratch;
    scratch.resize(3 * s.low_columns);
    const int64_t b = item / each, c = item % each / groups, begin = item % groups * group;
    const int64_t image = b * s.channels + c;
    const double deviation = sigma[b];
    const Rows<T> part{decoded + image * plane,
                       kernel + 2 * (b * s.kernel_image_stride + c * s.kernel_channel_stride),
                       y + image * low_plane,
                       step + image * plane,
                       s.height,
                       s.width,
                       s.factor,
                       begin,
                       std::min(rows, begin + group),
                       static_cast<T>(beta[b] * deviation * deviation),
                       !std::isinf(beta[b])};
    partial[item] = run(part, scratch.data());
  });
  const double pixels = static_cast<double>(rows) * s.low_width;
  for (int64_t b = 0; b < s.batch; ++b) {
    double weighted = 0, coupling = 0;
    for (int64_t item = b * each; item < (b + 1) * each; ++item) {
      weighted += partial[item].weighted;
      coupling += partial[item].gap;
    }
    const double deviation = sigma[b];
    const double factor =
        std::isinf(beta[b]) ? 1 / (deviation * deviation) : static_cast<double>(beta[b]);
    objective[b] = 0.5 * factor * weighted / pixels + half_squared_norm(z + b * s.latent, s.latent);
    gap[b] = coupling / pixels;
  }
}

std::tuple<Tensor, Tensor, Tensor> x_update_spectral(Tensor decoded, Tensor y, Tensor kernel,
                                                     Tensor z, Tensor beta, Tensor sigma,
                                                     int64_t width, int64_t factor) {
  const auto sizes = check_x_update_spectral(decoded, y, kernel, z, beta, sigma, width, factor);
  Tensor step = torch::stable::empty_like(decoded);
  Tensor objective = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  dispatch_floating("x_update_spectral", decoded, [&](auto zero) {
    using T = decltype(zero);
    x_update<T>(sizes, read<T>(decoded), read<T>(y), read<T>(kernel), read<T>(z), read<T>(beta),
                read<T>(sigma), write<T>(step), write<T>(objective), write<T>(gap));
  });
  return {step, objective, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("x_update_spectral", TORCH_BOX(&x_update_spectral));
}

}  // namespace jpmap
