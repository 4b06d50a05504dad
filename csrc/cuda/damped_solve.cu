// Damped k x k systems of a batch: s = (H + mu I)^{-1} g, H the Hessian where that is positive
// definite and the Gauss-Newton matrix elsewhere. Library calls would be some twenty launches, most
// of them waiting on one another; here it is one.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace jpmap {
namespace {

template <class T>
struct Arguments {
  const T* __restrict__ matrix;        // [B, k, k]
  const T* __restrict__ hessian;       // [B, k, k] or null
  const T* __restrict__ gradient;      // [B, k]
  const double* __restrict__ damping;  // [B] or null for none
  double* __restrict__ solution;       // [B, k]
  bool* __restrict__ positive;         // [B]
  int k;
};

// The lower triangle of a system in shared memory, and what divides by its diagonal.
struct Factor {
  double* at;       // [k][stride]
  double* inverse;  // [k]
  double* right;    // [k]
  int k, stride;
};

template <class T>
__device__ void load(const Factor& f, const T* source, double damping) {
  for (int e = threadIdx.x; e < f.k * f.k; e += kThreads) {
    const int i = e / f.k, j = e % f.k;
    f.at[i * f.stride + j] = static_cast<double>(source[e]) + (i == j ? damping : 0.0);
  }
}

// Cholesky in place, the diagonal kept as its inverse; false if the system is not positive
// definite.
__device__ bool factorise(const Factor& f) {
  const int down = threadIdx.x / 16, across = threadIdx.x % 16;
  for (int j = 0; j < f.k; ++j) {
    __syncthreads();
    const double pivot = f.at[j * f.stride + j];
    if (!(pivot > 0)) return false;  // all threads see the same
    const double inverse = rsqrt(pivot);
    if (threadIdx.x == 0) f.inverse[j] = inverse;
    for (int i = j + 1 + threadIdx.x; i < f.k; i += kThreads) f.at[i * f.stride + j] *= inverse;
    __syncthreads();
    for (int i = j + 1 + down; i < f.k; i += 16) {
      const double left = f.at[i * f.stride + j];
      for (int l = j + 1 + across; l <= i; l += 16) {
        f.at[i * f.stride + l] -= left * f.at[l * f.stride + j];
      }
    }
  }
  __syncthreads();
  return true;
}

// L L^T x = g in `right`, by one warp.
__device__ void substitute(const Factor& f) {
  const int lane = threadIdx.x;
  for (int j = 0; j < f.k; ++j) {
    __syncwarp();
    const double x = f.right[j] * f.inverse[j];
    __syncwarp();
    if (lane == 0) f.right[j] = x;
    for (int i = j + 1 + lane; i < f.k; i += 32) f.right[i] -= f.at[i * f.stride + j] * x;
  }
  for (int j = f.k - 1; j >= 0; --j) {
    __syncwarp();
    const double x = f.right[j] * f.inverse[j];
    __syncwarp();
    if (lane == 0) f.right[j] = x;
    for (int i = lane; i < j; i += 32) f.right[i] -= f.at[j * f.stride + i] * x;
  }
  __syncwarp();
}

// A block owns one image.
template <class T>
__global__ void __launch_bounds__(kThreads) damped_solve_kernel(const Arguments<T> a) {
  extern __shared__ double shared[];
  const int64_t b = blockIdx.x;
  const int stride = a.k + 1;
  const Factor f{shared, shared + a.k * stride, shared + a.k * stride + a.k, a.k, stride};
  const double damping = a.damping == nullptr ? 0 : a.damping[b];
  bool positive = false, solved = false;
  if (a.hessian != nullptr) {
    load(f, a.hessian + b * a.k * a.k, damping);
    solved = positive = factorise(f);
    __syncthreads();
  }
  if (!solved) {
    load(f, a.matrix + b * a.k * a.k, damping);
    solved = factorise(f);
  }
  if (threadIdx.x == 0) a.positive[b] = positive;
  if (threadIdx.x >= 32) return;
  for (int i = threadIdx.x; i < a.k; i += 32) f.right[i] = a.gradient[b * a.k + i];
  if (solved) substitute(f);
  for (int i = threadIdx.x; i < a.k; i += 32) {
    a.solution[b * a.k + i] = solved ? f.right[i] : nan("");
  }
}

template <class T>
void launch(const Arguments<T>& a, int64_t batch, cudaStream_t stream) {
  const int bytes = static_cast<int>(sizeof(double)) * a.k * (a.k + 3);
  const auto kernel = damped_solve_kernel<T>;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<static_cast<unsigned>(batch), kThreads, bytes, stream>>>(a);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> damped_solve(Tensor matrix, std::optional<Tensor> hessian,
                                        Tensor gradient, std::optional<Tensor> damping) {
  const DampedSizes sizes = check_damped_solve(matrix, hessian, gradient, damping);
  const torch::stable::accelerator::DeviceGuard guard(matrix.get_device());
  auto [solution, positive] = damped_results(sizes, matrix);
  if (sizes.batch == 0) return {solution, positive};
  dispatch_floating("damped_solve", matrix,
                    [&, &solution = solution, &positive = positive](auto zero) {
                      using T = decltype(zero);
                      const Arguments<T> a{read<T>(matrix),
                                           hessian.has_value() ? read<T>(*hessian) : nullptr,
                                           read<T>(gradient),
                                           damping.has_value() ? read<double>(*damping) : nullptr,
                                           write<double>(solution),
                                           write<bool>(positive),
                                           static_cast<int>(sizes.latent)};
                      launch(a, sizes.batch, current_stream(matrix));
                    });
  return {solution, positive};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) { m.impl("damped_solve", TORCH_BOX(&damped_solve)); }

}  // namespace jpmap
