// Densities and sums of Student-t mixtures at many codes of one image, for one instruction set.
//
// A vector holds as many codes as it has lanes: every code is a lane of its own, with the same
// operations whatever is beside it.
#pragma once

#include "cpu/isa/activation.h"
#include "cpu/isa/kernels.h"

namespace jpmap {
namespace JPMAP_ISA {

constexpr int kLane = kVectorBytes / static_cast<int>(sizeof(double));
// Distances beyond it are it: its logarithm is a number.
constexpr double kFar = 1e300;

using DoubleLanes = typename Lanes<double>::Value;

JPMAP_VECTOR_INLINE DoubleLanes lanes_at(const double* place) {
  return *reinterpret_cast<const typename VectorOf<double>::type*>(place);
}
JPMAP_VECTOR_INLINE void put_lanes(double* place, DoubleLanes value) {
  *reinterpret_cast<typename VectorOf<double>::type*>(place) = value;
}
JPMAP_VECTOR_INLINE DoubleLanes exp_of(DoubleLanes x) { return expm1_of<double>(x) + 1.0; }
static inline double sum_of_lanes(DoubleLanes x) {
  double total = 0;
  for (int lane = 0; lane < kLane; ++lane) total += x[lane];
  return total;
}

// Squared distances and log w_c t_c of the component c, and ||z||^2 / 2, of the codes from `at` on.
static inline void component_parts(const Mixture& m, int64_t c, int64_t at, const MixtureRoom& r) {
  const int64_t k = m.latent;
  const double* mean = m.mean + c * k;
  const double* scale = m.scale + c * k * k;
  DoubleLanes distance = {};
  for (int64_t i = 0; i < k; ++i) {
    DoubleLanes step = lanes_at(r.z + i * r.stride + at) - mean[i];
    for (int64_t j = 0; j < i; ++j) step -= scale[i * k + j] * lanes_at(r.step + j * kLane);
    step = step / scale[i * k + i];
    put_lanes(r.step + i * kLane, step);
    distance += step * step;
  }
  distance = distance > kFar ? DoubleLanes{} + kFar : distance;
  put_lanes(r.distance + c * r.stride + at, distance);
  const DoubleLanes fall = log_of<double>(1.0 + distance / m.degrees);
  put_lanes(r.part + c * r.stride + at, m.height[c] - 0.5 * (m.degrees + k) * fall);
}

// Fills the room: codes [rows][latent] by coordinate, distances, parts and the log of their sum.
static void mixture_parts(const Mixture& m, const double* z, int64_t rows, const MixtureRoom& r) {
  const int64_t k = m.latent;
  for (int64_t n = 0; n < r.stride; ++n) {
    for (int64_t i = 0; i < k; ++i) r.z[i * r.stride + n] = n < rows ? z[n * k + i] : 0.0;
  }
  for (int64_t at = 0; at < r.stride; at += kLane) {
    DoubleLanes top = DoubleLanes{} - __builtin_inf(), total = {};
    for (int64_t c = 0; c < m.components; ++c) {
      if (!m.used[c]) continue;
      component_parts(m, c, at, r);
      const DoubleLanes part = lanes_at(r.part + c * r.stride + at);
      top = part > top ? part : top;
    }
    for (int64_t c = 0; c < m.components; ++c) {
      if (m.used[c]) total += exp_of(lanes_at(r.part + c * r.stride + at) - top);
    }
    put_lanes(r.total + at, top + log_of<double>(total));
  }
}

// Log of defensive N(z; 0, I) + (1 - defensive) sum_c w_c t_c(z) of the codes [rows][latent].
static void mixture_density(const Mixture& m, const double* z, int64_t rows, const MixtureRoom& r,
                            double* out) {
  mixture_parts(m, z, rows, r);
  for (int64_t at = 0; at < r.stride; at += kLane) {
    DoubleLanes total = lanes_at(r.total + at);
    if (m.has_prior) {
      DoubleLanes squared = {};
      for (int64_t i = 0; i < m.latent; ++i) {
        const DoubleLanes z_i = lanes_at(r.z + i * r.stride + at);
        squared += z_i * z_i;
      }
      const DoubleLanes prior = m.log_prior - 0.5 * squared;
      total = total + m.log_rest;
      const DoubleLanes top = prior > total ? prior : total;
      total = top + log_of<double>(exp_of(prior - top) + exp_of(total - top));
    }
    const int64_t left = rows - at;
    for (int64_t lane = 0; lane < kLane && lane < left; ++lane) out[at + lane] = total[lane];
  }
}

// What weighted codes say of each component; see kernels.h.
static void mixture_sums(const Mixture& m, const double* z, const double* weight, int64_t rows,
                         const MixtureRoom& r, const MixtureSums& out) {
  const int64_t k = m.latent;
  mixture_parts(m, z, rows, r);
  for (int64_t c = 0; c < m.components; ++c) {
    if (!m.used[c]) continue;
    DoubleLanes mass = {}, squares = {}, robust = {};
    for (int64_t i = 0; i < k * (k + 3) / 2 * kLane; ++i) r.sums[i] = 0;
    for (int64_t at = 0; at < r.stride; at += kLane) {
      DoubleLanes own = {};
      for (int64_t lane = 0; lane < kLane && lane < rows - at; ++lane)
        own[lane] = weight[at + lane];
      own *= exp_of(lanes_at(r.part + c * r.stride + at) - lanes_at(r.total + at));
      const DoubleLanes held =
          own * ((m.degrees + k) / (m.degrees + lanes_at(r.distance + c * r.stride + at)));
      mass += own;
      squares += own * own;
      robust += held;
      double* sum = r.sums;
      for (int64_t i = 0; i < k; ++i) {
        const DoubleLanes step = lanes_at(r.z + i * r.stride + at) - m.mean[c * k + i];
        put_lanes(r.step + i * kLane, step);
        const DoubleLanes heavy = held * step;
        put_lanes(sum, lanes_at(sum) + heavy);
        sum += kLane;
        for (int64_t j = 0; j <= i; ++j, sum += kLane) {
          put_lanes(sum, lanes_at(sum) + heavy * lanes_at(r.step + j * kLane));
        }
      }
    }
    out.mass[c] = sum_of_lanes(mass);
    out.squares[c] = sum_of_lanes(squares);
    out.robust[c] = sum_of_lanes(robust);
    const double* sum = r.sums;
    for (int64_t i = 0; i < k; ++i) {
      out.first[c * k + i] = sum_of_lanes(lanes_at(sum));
      sum += kLane;
      for (int64_t j = 0; j <= i; ++j, sum += kLane) {
        const double total = sum_of_lanes(lanes_at(sum));
        out.second[(c * k + i) * k + j] = out.second[(c * k + j) * k + i] = total;
      }
    }
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
