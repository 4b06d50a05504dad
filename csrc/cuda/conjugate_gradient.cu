// The vector work of batched conjugate gradients; one block owns one row, which is one system.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace jpmap {
namespace {

// alpha = rho / <p, q>, x += alpha p, r -= alpha q, rho_new = <r, r>; a frozen row is not touched.
// Reads p and q twice (the second time mostly from cache), x and r once, writes x and r.
template <class T>
__global__ void __launch_bounds__(kThreads)
    step_kernel(T* __restrict__ x, T* __restrict__ r, const T* __restrict__ p,
                const T* __restrict__ q, const T* __restrict__ rho, const bool* __restrict__ active,
                T* __restrict__ rho_new, int64_t size) {
  const int64_t b = blockIdx.x, row = b * size;
  const T before = rho[b];
  if (!active[b]) {
    if (threadIdx.x == 0) rho_new[b] = before;
    return;
  }
  double product = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    product += static_cast<double>(p[row + i]) * q[row + i];
  }
  product = group_sum<kThreads>(product);
  // A direction of no curvature, or a residual that is zero already: stay.
  const T alpha =
      product > 0 && before != T(0) ? static_cast<T>(static_cast<double>(before) / product) : T(0);
  double total = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    x[row + i] = fma(alpha, p[row + i], x[row + i]);
    const T left = fma(-alpha, q[row + i], r[row + i]);
    r[row + i] = left;
    total += static_cast<double>(left) * left;
  }
  total = group_sum<kThreads>(total);
  if (threadIdx.x == 0) rho_new[b] = static_cast<T>(total);
}

// p = r + (rho_new / rho) p. Reads r and p, writes p.
template <class T>
__global__ void __launch_bounds__(kThreads)
    direction_kernel(T* __restrict__ p, const T* __restrict__ r, const T* __restrict__ rho_new,
                     const T* __restrict__ rho, const bool* __restrict__ active, int64_t size) {
  const int64_t b = blockIdx.x, row = b * size;
  if (!active[b]) return;
  const T ratio = rho[b] == T(0) ? T(0) : rho_new[b] / rho[b];
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    p[row + i] = fma(ratio, p[row + i], r[row + i]);
  }
}

Tensor conjugate_gradient_step(Tensor x, Tensor r, Tensor p, Tensor q, Tensor rho, Tensor active) {
  check_rows("conjugate_gradient_step", x, {{"r", &r}, {"p", &p}, {"q", &q}}, {{"rho", &rho}},
             active);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device());
  Tensor rho_new = torch::stable::empty_like(rho);
  const int64_t batch = x.size(0);
  if (batch == 0) return rho_new;
  dispatch_floating("conjugate_gradient_step", x, [&](auto zero) {
    using T = decltype(zero);
    step_kernel<T><<<static_cast<unsigned int>(batch), kThreads, 0, current_stream(x)>>>(
        write<T>(x), write<T>(r), read<T>(p), read<T>(q), read<T>(rho), read<bool>(active),
        write<T>(rho_new), x.size(1));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return rho_new;
}

void conjugate_gradient_direction(Tensor p, Tensor r, Tensor rho_new, Tensor rho, Tensor active) {
  check_rows("conjugate_gradient_direction", p, {{"r", &r}}, {{"rho_new", &rho_new}, {"rho", &rho}},
             active);
  const torch::stable::accelerator::DeviceGuard guard(p.get_device());
  const int64_t batch = p.size(0);
  if (batch == 0) return;
  dispatch_floating("conjugate_gradient_direction", p, [&](auto zero) {
    using T = decltype(zero);
    direction_kernel<T><<<static_cast<unsigned int>(batch), kThreads, 0, current_stream(p)>>>(
        write<T>(p), read<T>(r), read<T>(rho_new), read<T>(rho), read<bool>(active), p.size(1));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("conjugate_gradient_step", TORCH_BOX(&conjugate_gradient_step));
  m.impl("conjugate_gradient_direction", TORCH_BOX(&conjugate_gradient_direction));
}

}  // namespace jpmap
