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
struct Row {
  const T* decoded;  // [H, W / 2 + 1, 2] of this image and channel
  const T* kernel;   // the same of h
  const T* y;        // [W / f / 2 + 1, 2], row u of the small spectrum
  T* step;           // as decoded
  int64_t height, width, factor, u;
  T noise;      // beta sigma^2
  bool finite;  // beta < inf
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

// Row u for f = 1: r = y - h G,  step = conj(h) r q. Reads y, G and h, writes the step: 32 bytes a
// frequency in float32.
template <class T>
JPMAP_INLINE Sums blur_row(const Row<T>& a) {
  const int64_t columns = a.width / 2 + 1, offset = 2 * a.u * columns;
  const T* __restrict__ g = a.decoded + offset;
  const T* __restrict__ h = a.kernel + offset;
  const T* __restrict__ y = a.y;
  T* __restrict__ step = a.step + offset;
  const T scale = a.finite ? T(1) / (static_cast<T>(a.height) * a.width) : T(0);
  double weighted[kLanes] = {}, gap[kLanes] = {};
  const auto one = [&](int64_t v, int lane) {
    const T hr = h[2 * v], hi = h[2 * v + 1], gr = g[2 * v], gi = g[2 * v + 1];
    const T re = y[2 * v] - (hr * gr - hi * gi), im = y[2 * v + 1] - (hr * gi + hi * gr);
    const T power = hr * hr + hi * hi;
    const T q = a.finite ? T(1) / (power + a.noise) : T(1);
    const T factor = q * scale;
    step[2 * v] = (hr * re + hi * im) * factor;
    step[2 * v + 1] = (hr * im - hi * re) * factor;
    const double square = static_cast<double>(re) * re + static_cast<double>(im) * im;
    weighted[lane] += square * q;
    gap[lane] += square * q * q * power;
  };
  int64_t v = 0;
  for (; v + kLanes <= columns; v += kLanes) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) one(v + lane, lane);
  }
  for (int lane = 0; v < columns; ++v, ++lane) one(v, lane);
  Sums sums{2 * lane_sum(weighted), a.finite ? 2 * lane_sum(gap) : 0};
  for (const int64_t alone : {int64_t(0), columns - 1}) {
    if (!once(alone, a.width)) continue;
    const T hr = h[2 * alone], hi = h[2 * alone + 1], gr = g[2 * alone], gi = g[2 * alone + 1];
    const T re = y[2 * alone] - (hr * gr - hi * gi);
    const T im = y[2 * alone + 1] - (hr * gi + hi * gr);
    const T power = hr * hr + hi * hi;
    add(sums, -1, re, im, power, a.finite ? T(1) / (power + a.noise) : T(1), a.finite);
    if (columns == 1) break;
  }
  return sums;
}

// Row u for any f: the f^2 aliases of every small frequency are read where the half spectrum holds
// them, as they are or mirrored and conjugated, and the step is written to the same places.
template <class T>
JPMAP_INLINE Sums folded_row(const Row<T>& a, T* __restrict__ scratch) {
  const int64_t f = a.factor, columns = a.width / 2 + 1;
  const int64_t low_height = a.height / f, low_width = a.width / f, count = low_width / 2 + 1;
  T* __restrict__ re = scratch;
  T* __restrict__ im = scratch + count;
  T* __restrict__ power = scratch + 2 * count;
  std::fill(scratch, scratch + 3 * count, T(0));
  // Columns v of alias (i, j) that the half spectrum holds as they are; the others are mirrored.
  const auto direct = [&](int64_t j) {
    return std::max<int64_t>(0, std::min(count, a.width / 2 - j * low_width + 1));
  };
  for (int64_t i = 0; i < f; ++i) {
    const int64_t k = a.u + i * low_height, mirror = (a.height - k) % a.height;
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
    const T rr = a.y[2 * v] - mean * re[v], ri = a.y[2 * v + 1] - mean * im[v];
    const T p = mean * power[v], q = a.finite ? T(1) / (p + a.noise) : T(1);
    add(sums, once(v, low_width) ? 1.0 : 2.0, rr, ri, p, q, a.finite);
    re[v] = rr * q * scale;
    im[v] = ri * q * scale;
  }
  for (int64_t i = 0; i < f; ++i) {
    const int64_t k = a.u + i * low_height, mirror = (a.height - k) % a.height;
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
JPMAP_INLINE Sums any_row(const Row<T>& a, T* scratch) {
  return a.factor == 1 ? blur_row(a) : folded_row(a, scratch);
}

JPMAP_CLONES Sums run(const Row<float>& a, float* scratch) { return any_row(a, scratch); }
JPMAP_CLONES Sums run(const Row<double>& a, double* scratch) { return any_row(a, scratch); }

template <class T>
void x_update(const SpectralSizes& s, const T* decoded, const T* y, const T* kernel, const T* z,
              const T* beta, const T* sigma, T* step, T* objective, T* gap) {
  const int64_t rows = s.low_height, each = s.channels * rows;
  const int64_t plane = 2 * s.height * s.columns;
  std::vector<Sums> partial(s.batch * each);
  for_each_item(s.batch * each, s.factor * s.factor * s.low_columns * 2, [&](int64_t item) {
    thread_local std::vector<T> scratch;
    scratch.resize(3 * s.low_columns);
    const int64_t b = item / each, c = item % each / rows, u = item % rows;
    const double deviation = sigma[b];
    const Row<T> row{decoded + (b * s.channels + c) * plane,
                     kernel + 2 * (b * s.kernel_image_stride + c * s.kernel_channel_stride),
                     y + 2 * item * s.low_columns,
                     step + (b * s.channels + c) * plane,
                     s.height,
                     s.width,
                     s.factor,
                     u,
                     static_cast<T>(beta[b] * deviation * deviation),
                     !std::isinf(beta[b])};
    partial[item] = run(row, scratch.data());
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
