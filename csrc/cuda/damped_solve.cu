// Damped k x k systems of a batch: (H + mu I)^{-1} g, H of damped_system.h. Library calls would be
// dozens of launches, most of them waiting on one another; here it is one.
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
  float* __restrict__ share;           // [B]
  int k;
};

// The lower triangle of a system in shared memory, row after row, and what divides by its diagonal.
// Rows begin at i (i + 1) / 2, which spreads a column over all banks.
struct Factor {
  double* at;       // [k (k + 1) / 2]
  double* inverse;  // [k]
  double* right;    // [k]
  int k;

  __device__ double* row(int i) const { return at + i * (i + 1) / 2; }
};

// The matrix with a share of the Hessian, less a part of the matrix, plus damping.
template <class T>
__device__ void load(const Factor& f, const T* matrix, const T* hessian, float share, double less,
                     double damping) {
  for (int e = threadIdx.x; e < f.k * f.k; e += kThreads) {
    const int i = e / f.k, j = e % f.k;
    if (j > i) continue;
    const double model = matrix[e];
    double value = model;
    if (share > 0) {
      const double whole = hessian[e];
      value = share == 1 ? whole : model + share * (whole - model);
    }
    f.row(i)[j] = value - less * model + (i == j ? damping : 0.0);
  }
}

// Cholesky in place, the diagonal kept as its inverse; false if the system is not positive
// definite.
__device__ bool factorise(const Factor& f) {
  const int down = threadIdx.x / 16, across = threadIdx.x % 16;
  for (int j = 0; j < f.k; ++j) {
    __syncthreads();
    const double pivot = f.row(j)[j];
    if (!(pivot > 0)) return false;  // all threads see the same
    const double inverse = rsqrt(pivot);
    if (threadIdx.x == 0) f.inverse[j] = inverse;
    for (int i = j + 1 + threadIdx.x; i < f.k; i += kThreads) f.row(i)[j] *= inverse;
    __syncthreads();
    for (int i = j + 1 + down; i < f.k; i += 16) {
      double* row = f.row(i);
      const double left = row[j];
      for (int l = j + 1 + across; l <= i; l += 16) row[l] -= left * f.row(l)[j];
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
    for (int i = j + 1 + lane; i < f.k; i += 32) f.right[i] -= f.row(i)[j] * x;
  }
  for (int j = f.k - 1; j >= 0; --j) {
    __syncwarp();
    const double x = f.right[j] * f.inverse[j];
    __syncwarp();
    if (lane == 0) f.right[j] = x;
    for (int i = lane; i < j; i += 32) f.right[i] -= f.row(j)[i] * x;
  }
  __syncwarp();
}

// Whether the Hessian is positive definite and its own step short: every thread gets the answer.
template <class T>
__device__ bool steps_short(const Factor& f, const T* matrix, const T* hessian, const T* gradient) {
  load(f, matrix, hessian, 1.0f, 0, 0);
  const bool positive = factorise(f);
  double squared = 0;
  if (positive && threadIdx.x < 32) {
    for (int i = threadIdx.x; i < f.k; i += 32) f.right[i] = gradient[i];
    substitute(f);
    for (int i = 0; i < f.k; ++i) squared += f.right[i] * f.right[i];
  }
  return __syncthreads_or(positive && threadIdx.x < 32 && is_short(squared, f.k));
}

// A block owns one image.
template <class T>
__global__ void __launch_bounds__(kThreads) damped_solve_kernel(const Arguments<T> a) {
  extern __shared__ double shared[];
  const int64_t b = blockIdx.x;
  double* vectors = shared + a.k * (a.k + 1) / 2;
  const Factor f{shared, vectors, vectors + a.k, a.k};
  const double damping = a.damping == nullptr ? 0 : a.damping[b];
  const T *matrix = a.matrix + b * a.k * a.k, *gradient = a.gradient + b * a.k;
  const T* hessian = a.hessian == nullptr ? nullptr : a.hessian + b * a.k * a.k;
  float share = hessian != nullptr && steps_short(f, matrix, hessian, gradient) ? 1.0f : 0.0f;
  for (int i = 0; hessian != nullptr && i < kHessianShares && share == 0; ++i) {
    load(f, matrix, hessian, hessian_share(i), kModelLeft, 0);
    if (factorise(f)) share = hessian_share(i);
    __syncthreads();  // read
  }
  load(f, matrix, hessian, share, 0, damping);
  const bool solved = factorise(f);
  if (threadIdx.x == 0) a.share[b] = share;
  if (threadIdx.x >= 32) return;
  for (int i = threadIdx.x; i < a.k; i += 32) f.right[i] = gradient[i];
  if (solved) substitute(f);
  for (int i = threadIdx.x; i < a.k; i += 32) {
    a.solution[b * a.k + i] = solved ? f.right[i] : nan("");
  }
}

template <class T>
void launch(const Arguments<T>& a, int64_t batch, cudaStream_t stream) {
  const auto kernel = damped_solve_kernel<T>;
  allow_shared_memory("damped_solve", kernel, damped_shared_memory(kMaxDampedSystem));
  kernel<<<static_cast<unsigned>(batch), kThreads, damped_shared_memory(a.k), stream>>>(a);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> damped_solve(Tensor matrix, std::optional<Tensor> hessian,
                                        Tensor gradient, std::optional<Tensor> damping) {
  const DampedSizes sizes = check_damped_solve(matrix, hessian, gradient, damping);
  const torch::stable::accelerator::DeviceGuard guard(matrix.get_device());
  auto [solution, share] = damped_results(sizes, matrix);
  if (sizes.batch == 0) return {solution, share};
  dispatch_floating("damped_solve", matrix, [&, &solution = solution, &share = share](auto zero) {
    using T = decltype(zero);
    const Arguments<T> a{read<T>(matrix),
                         hessian.has_value() ? read<T>(*hessian) : nullptr,
                         read<T>(gradient),
                         damping.has_value() ? read<double>(*damping) : nullptr,
                         write<double>(solution),
                         write<float>(share),
                         static_cast<int>(sizes.latent)};
    launch(a, sizes.batch, current_stream(matrix));
  });
  return {solution, share};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) { m.impl("damped_solve", TORCH_BOX(&damped_solve)); }

}  // namespace jpmap
