// x-update of denoising and inpainting with J1 and the coupling gap, in one pass.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace jpmap {
namespace {

template <class T>
struct Arguments {
  const T* __restrict__ decoded;  // [B, n]
  const T* __restrict__ y;        // [B, n]
  const T* __restrict__ weight;   // [n], [B, n] or null
  const T* __restrict__ z;        // [B, k]
  const T* __restrict__ beta;     // [B]
  const T* __restrict__ sigma;    // [B]
  T* __restrict__ x;              // [B, n]
  T* __restrict__ objective;      // [B]
  T* __restrict__ gap;            // [B]
  double* __restrict__ partial;   // [B, chunks, 2], null for one chunk
  int64_t batch, pixels, latent, chunks, chunk, weight_stride;
};

template <int kGroup, class T>
__device__ void finish(const Arguments<T>& a, int64_t b, double weighted, double coupling,
                       int rank) {
  const double code = half_squared_norm<kGroup>(a.z + b * a.latent, a.latent, rank);
  if (rank == 0) {
    const double s = a.sigma[b], beta = a.beta[b];
    const double factor = isinf(beta) ? 1 / (s * s) : beta;
    a.objective[b] = static_cast<T>(0.5 * factor * weighted + code);
    a.gap[b] = static_cast<T>(coupling);
  }
}

// A group of kGroup threads owns one chunk of one image, each thread packs of kPack pixels:
//   r = y - w G,  q = 1 / (w^2 + beta sigma^2),  x = G + w r q,  J1 = beta/2 sum r^2 q + |z|^2/2;
// with beta = inf: x = G, J1 = sum r^2 / (2 sigma^2) + |z|^2/2.
// Reads y, w, G and writes x once: 16 bytes a pixel in float32, 12 with a shared or no weight. The
// residual takes one fused multiply-add, so its cancellation is exact.
template <int kGroup, int kPack, class T>
__global__ void __launch_bounds__(kThreads, 4) x_update_kernel(const Arguments<T> a) {
  const int64_t item =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int rank = threadIdx.x % kGroup;
  if (item >= a.batch * a.chunks) return;  // whole groups leave together
  const int64_t b = item / a.chunks, begin = (item % a.chunks) * a.chunk;
  const int64_t offset = b * a.pixels + begin;
  const int size = static_cast<int>(min(a.chunk, a.pixels - begin));
  const double s = a.sigma[b], beta = a.beta[b];
  const bool tied = isinf(beta);
  const T noise = static_cast<T>(beta * s * s);
  const T* weight = a.weight == nullptr ? nullptr : a.weight + b * a.weight_stride + begin;

  struct alignas(kPack * sizeof(T)) Packed {
    T at[kPack];
  };
  double weighted = 0, coupling = 0;
  // Two packs' loads are under way before the first is needed; with more, their registers cost more
  // resident warps than the loads gain.
  constexpr int kAhead = 2, kStride = kGroup * kPack;
  for (int start = rank * kPack; start < size; start += kAhead * kStride) {
    Packed g[kAhead], y[kAhead], w[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = start + u * kStride;
      if (i >= size) break;
      g[u] = *reinterpret_cast<const Packed*>(a.decoded + offset + i);
      y[u] = *reinterpret_cast<const Packed*>(a.y + offset + i);
      if (weight != nullptr) w[u] = *reinterpret_cast<const Packed*>(weight + i);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = start + u * kStride;
      if (i >= size) break;
      Packed x;
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const T m = weight != nullptr ? w[u].at[j] : T(1);
        const T r = fma(-m, g[u].at[j], y[u].at[j]);
        const T q = tied ? T(1) : T(1) / (m * m + noise);
        const T d = tied ? T(0) : m * r * q;
        // Where the data outweigh the prior, G + d would cancel: take the weighted mean instead.
        x.at[j] =
            !tied && m * m > noise ? (m * y[u].at[j] + noise * g[u].at[j]) * q : g[u].at[j] + d;
        weighted += static_cast<double>(r) * (r * q);
        coupling += static_cast<double>(d) * d;
      }
      *reinterpret_cast<Packed*>(a.x + offset + i) = x;
    }
  }
  weighted = group_sum<kGroup>(weighted);
  coupling = group_sum<kGroup>(coupling);
  if (a.chunks == 1) {
    finish<kGroup>(a, b, weighted, coupling, rank);
  } else if (rank == 0) {
    a.partial[2 * item] = weighted;
    a.partial[2 * item + 1] = coupling;
  }
}

// One warp owns one image: the sum of its chunks, lane by lane in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) x_update_finish_kernel(const Arguments<T> a) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int rank = threadIdx.x % 32;
  if (b >= a.batch) return;
  double weighted = 0, coupling = 0;
  for (int64_t c = rank; c < a.chunks; c += 32) {
    weighted += a.partial[2 * (b * a.chunks + c)];
    coupling += a.partial[2 * (b * a.chunks + c) + 1];
  }
  finish<32>(a, b, group_sum<32>(weighted), group_sum<32>(coupling), rank);
}

template <class T>
void launch(const Arguments<T>& a, bool packed, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t items = a.batch * a.chunks;
  if (a.pixels <= kWarpItem) {
    const auto kernel = packed ? x_update_kernel<32, kPack, T> : x_update_kernel<32, 1, T>;
    kernel<<<blocks_for<32>(items), kThreads, 0, stream>>>(a);
  } else {
    const auto kernel =
        packed ? x_update_kernel<kThreads, kPack, T> : x_update_kernel<kThreads, 1, T>;
    kernel<<<blocks_for<kThreads>(items), kThreads, 0, stream>>>(a);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (a.chunks > 1) {
    x_update_finish_kernel<T><<<blocks_for<32>(a.batch), kThreads, 0, stream>>>(a);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

std::tuple<Tensor, Tensor, Tensor> x_update_diagonal(Tensor decoded, Tensor y,
                                                     std::optional<Tensor> weight, Tensor z,
                                                     Tensor beta, Tensor sigma) {
  const auto sizes = check_x_update(decoded, y, weight, z, beta, sigma);
  const torch::stable::accelerator::DeviceGuard guard(decoded.get_device());
  Tensor x = torch::stable::empty_like(decoded);
  Tensor objective = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  if (sizes.batch == 0) return {x, objective, gap};
  const int64_t chunks = chunk_count(sizes.pixels);
  Tensor partial = torch::stable::new_empty(beta, {chunks > 1 ? sizes.batch * chunks * 2 : 0},
                                            torch::headeronly::ScalarType::Double);
  dispatch_floating("x_update_diagonal", decoded, [&](auto zero) {
    using T = decltype(zero);
    const T* m = weight ? read<T>(*weight) : nullptr;
    const Arguments<T> a{read<T>(decoded),
                         read<T>(y),
                         m,
                         read<T>(z),
                         read<T>(beta),
                         read<T>(sigma),
                         write<T>(x),
                         write<T>(objective),
                         write<T>(gap),
                         write<double>(partial),
                         sizes.batch,
                         sizes.pixels,
                         sizes.latent,
                         chunks,
                         chunk_size(sizes.pixels),
                         sizes.weight_per_image ? sizes.pixels : 0};
    const bool packed = sizes.pixels % (16 / sizeof(T)) == 0 && aligned(a.decoded, 16) &&
                        aligned(a.y, 16) && aligned(a.x, 16) && (m == nullptr || aligned(m, 16));
    launch(a, packed, current_stream(decoded));
  });
  return {x, objective, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("x_update_diagonal", TORCH_BOX(&x_update_diagonal));
}

}  // namespace jpmap
