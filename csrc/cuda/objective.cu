// J1 and the coupling gap of given x, G(z), residual and z.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace jpmap {
namespace {

template <class T>
struct Arguments {
  const T* __restrict__ x;         // [B, n]
  const T* __restrict__ decoded;   // [B, n]
  const T* __restrict__ residual;  // [B, m]
  const T* __restrict__ z;         // [B, k]
  const T* __restrict__ beta;      // [B]
  const T* __restrict__ sigma;     // [B]
  T* __restrict__ objective;       // [B]
  T* __restrict__ gap;             // [B]
  double* __restrict__ partial;    // [B, chunks, 2], null for one chunk
  int64_t batch, pixels, measurements, latent, chunks, chunk;
};

// sum (a - b)^2, or sum a^2 without b, over [begin, end) by kGroup threads.
template <int kGroup, int kPack, class T>
__device__ double squares(const T* __restrict__ a, const T* __restrict__ b, int64_t begin,
                          int64_t end, int rank) {
  struct alignas(kPack * sizeof(T)) Packed {
    T at[kPack];
  };
  double total = 0;
#pragma unroll 4
  for (int64_t i = begin + static_cast<int64_t>(rank) * kPack; i < end; i += kGroup * kPack) {
    Packed p = *reinterpret_cast<const Packed*>(a + i), q;
    if (b != nullptr) q = *reinterpret_cast<const Packed*>(b + i);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const T d = b != nullptr ? p.at[j] - q.at[j] : p.at[j];
      total += static_cast<double>(d) * d;
    }
  }
  return group_sum<kGroup>(total);
}

template <int kGroup, class T>
__device__ void finish(const Arguments<T>& a, int64_t b, double coupling, double data, int rank) {
  const double code = half_squared_norm<kGroup>(a.z + b * a.latent, a.latent, rank);
  if (rank == 0) {
    const double s = a.sigma[b];
    const double tied = coupling == 0 ? 0 : 0.5 * static_cast<double>(a.beta[b]) * coupling;
    a.objective[b] = static_cast<T>(data / (2 * s * s) + tied + code);
    a.gap[b] = static_cast<T>(coupling);
  }
}

// A group of kGroup threads owns chunk c of one image: its part of x and G(z), and its part of the
// residual. Reads every element once: 4 (2 n + m) bytes an image in float32.
template <int kGroup, int kPack, class T>
__global__ void __launch_bounds__(kThreads) objective_kernel(const Arguments<T> a) {
  const int64_t item =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int rank = threadIdx.x % kGroup;
  if (item >= a.batch * a.chunks) return;  // whole groups leave together
  const int64_t b = item / a.chunks, begin = (item % a.chunks) * a.chunk, end = begin + a.chunk;
  const double coupling = squares<kGroup, kPack, T>(a.x + b * a.pixels, a.decoded + b * a.pixels,
                                                    begin, min(end, a.pixels), rank);
  const double data = squares<kGroup, kPack, T>(a.residual + b * a.measurements, nullptr, begin,
                                                min(end, a.measurements), rank);
  if (a.chunks == 1) {
    finish<kGroup>(a, b, coupling, data, rank);
  } else if (rank == 0) {
    a.partial[2 * item] = coupling;
    a.partial[2 * item + 1] = data;
  }
}

// One warp owns one image: the sum of its chunks, lane by lane in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) objective_finish_kernel(const Arguments<T> a) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int rank = threadIdx.x % 32;
  if (b >= a.batch) return;
  double coupling = 0, data = 0;
  for (int64_t c = rank; c < a.chunks; c += 32) {
    coupling += a.partial[2 * (b * a.chunks + c)];
    data += a.partial[2 * (b * a.chunks + c) + 1];
  }
  finish<32>(a, b, group_sum<32>(coupling), group_sum<32>(data), rank);
}

template <class T>
void launch(const Arguments<T>& a, bool packed, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t items = a.batch * a.chunks;
  if (a.chunk == kWarpItem) {
    const auto kernel = packed ? objective_kernel<32, kPack, T> : objective_kernel<32, 1, T>;
    kernel<<<blocks_for<32>(items), kThreads, 0, stream>>>(a);
  } else {
    const auto kernel =
        packed ? objective_kernel<kThreads, kPack, T> : objective_kernel<kThreads, 1, T>;
    kernel<<<blocks_for<kThreads>(items), kThreads, 0, stream>>>(a);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (a.chunks > 1) {
    objective_finish_kernel<T><<<blocks_for<32>(a.batch), kThreads, 0, stream>>>(a);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

std::tuple<Tensor, Tensor> objective(Tensor x, Tensor decoded, Tensor residual, Tensor z,
                                     Tensor beta, Tensor sigma) {
  const auto sizes = check_objective(x, decoded, residual, z, beta, sigma);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device());
  Tensor value = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  if (sizes.batch == 0) return {value, gap};
  const int64_t longest = std::max(sizes.pixels, sizes.measurements);
  const int64_t chunks = chunk_count(longest);
  Tensor partial = torch::stable::new_empty(beta, {chunks > 1 ? sizes.batch * chunks * 2 : 0},
                                            torch::headeronly::ScalarType::Double);
  dispatch_floating("objective", x, [&](auto zero) {
    using T = decltype(zero);
    const Arguments<T> a{read<T>(x),      read<T>(decoded), read<T>(residual),
                         read<T>(z),      read<T>(beta),    read<T>(sigma),
                         write<T>(value), write<T>(gap),    write<double>(partial),
                         sizes.batch,     sizes.pixels,     sizes.measurements,
                         sizes.latent,    chunks,           chunk_size(longest)};
    constexpr int64_t pack = 16 / sizeof(T);
    const bool packed = sizes.pixels % pack == 0 && sizes.measurements % pack == 0 &&
                        aligned(a.x, 16) && aligned(a.decoded, 16) && aligned(a.residual, 16);
    launch(a, packed, current_stream(x));
  });
  return {value, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) { m.impl("objective", TORCH_BOX(&objective)); }

}  // namespace jpmap
