// The vector work of batched conjugate gradients; one row is one system.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "arguments.h"
#include "cpu/parallel.h"

namespace jpmap {
namespace {

// <p, q> of a row.
template <class T>
JPMAP_INLINE double dot(const T* __restrict__ p, const T* __restrict__ q, int64_t size) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(p[i + lane]) * q[i + lane];
    }
  }
  for (int lane = 0; i < size; ++i, ++lane) lanes[lane] += static_cast<double>(p[i]) * q[i];
  return lane_sum(lanes);
}

// x += alpha p, r -= alpha q, returns <r, r>. Reads four rows, writes two.
template <class T>
JPMAP_INLINE double advance(T* __restrict__ x, T* __restrict__ r, const T* __restrict__ p,
                            const T* __restrict__ q, T alpha, int64_t size) {
  double lanes[kLanes] = {};
  const auto step = [&](int64_t i, int lane) {
    x[i] = std::fma(alpha, p[i], x[i]);
    r[i] = std::fma(-alpha, q[i], r[i]);
    lanes[lane] += static_cast<double>(r[i]) * r[i];
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; ++lane) step(i + lane, lane);
  }
  for (int lane = 0; i < size; ++i, ++lane) step(i, lane);
  return lane_sum(lanes);
}

// A direction of no curvature, or a residual that is zero already: stay.
template <class T>
JPMAP_INLINE T step_row(T* x, T* r, const T* p, const T* q, T rho, int64_t size) {
  const double curvature = dot(p, q, size);
  const double alpha = curvature > 0 && rho != 0 ? rho / curvature : 0;
  return static_cast<T>(advance(x, r, p, q, static_cast<T>(alpha), size));
}

template <class T>
JPMAP_INLINE void turn_row(T* __restrict__ p, const T* __restrict__ r, T ratio, int64_t size) {
  for (int64_t i = 0; i < size; ++i) p[i] = std::fma(ratio, p[i], r[i]);
}

JPMAP_CLONES float run_step(float* x, float* r, const float* p, const float* q, float rho,
                            int64_t size) {
  return step_row(x, r, p, q, rho, size);
}
JPMAP_CLONES double run_step(double* x, double* r, const double* p, const double* q, double rho,
                             int64_t size) {
  return step_row(x, r, p, q, rho, size);
}
JPMAP_CLONES void run_turn(float* p, const float* r, float ratio, int64_t size) {
  turn_row(p, r, ratio, size);
}
JPMAP_CLONES void run_turn(double* p, const double* r, double ratio, int64_t size) {
  turn_row(p, r, ratio, size);
}

Tensor conjugate_gradient_step(Tensor x, Tensor r, Tensor p, Tensor q, Tensor rho, Tensor active) {
  check_rows("conjugate_gradient_step", x, {{"r", &r}, {"p", &p}, {"q", &q}}, {{"rho", &rho}},
             active);
  Tensor rho_new = torch::stable::empty_like(rho);
  const int64_t batch = x.size(0), size = x.size(1);
  dispatch_floating("conjugate_gradient_step", x, [&](auto zero) {
    using T = decltype(zero);
    const bool* on = read<bool>(active);
    for_each_item(batch, size, [&](int64_t b) {
      const int64_t row = b * size;
      const T before = read<T>(rho)[b];
      write<T>(rho_new)[b] = on[b] ? run_step(write<T>(x) + row, write<T>(r) + row,
                                              read<T>(p) + row, read<T>(q) + row, before, size)
                                   : before;
    });
  });
  return rho_new;
}

void conjugate_gradient_direction(Tensor p, Tensor r, Tensor rho_new, Tensor rho, Tensor active) {
  check_rows("conjugate_gradient_direction", p, {{"r", &r}}, {{"rho_new", &rho_new}, {"rho", &rho}},
             active);
  const int64_t batch = p.size(0), size = p.size(1);
  dispatch_floating("conjugate_gradient_direction", p, [&](auto zero) {
    using T = decltype(zero);
    const bool* on = read<bool>(active);
    for_each_item(batch, size, [&](int64_t b) {
      if (!on[b]) return;
      const T before = read<T>(rho)[b];
      const T ratio = before == T(0) ? T(0) : read<T>(rho_new)[b] / before;
      run_turn(write<T>(p) + b * size, read<T>(r) + b * size, ratio, size);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("conjugate_gradient_step", TORCH_BOX(&conjugate_gradient_step));
  m.impl("conjugate_gradient_direction", TORCH_BOX(&conjugate_gradient_direction));
}

}  // namespace jpmap
