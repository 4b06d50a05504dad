// x-update of blur and super-resolution between the Fourier transforms, with J1 and the coupling
// gap, in one pass.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/launch.cuh"
#include "spectral_sizes.h"

namespace jpmap {
namespace {

// Small frequencies of one block: few, so that a batch of small images fills the device.
constexpr int kFrequencies = 1024;

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

template <class T>
struct Arguments {
  const Complex<T>* __restrict__ decoded;  // [B, C, H, W / 2 + 1]
  const Complex<T>* __restrict__ y;        // [B, C, H / f, W / f / 2 + 1]
  const Complex<T>* __restrict__ kernel;   // [C or 1, H, W / 2 + 1] or one an image
  const T* __restrict__ z;                 // [B, k]
  const T* __restrict__ beta;              // [B]
  const T* __restrict__ sigma;             // [B]
  Complex<T>* __restrict__ step;           // as decoded
  T* __restrict__ objective;               // [B]
  T* __restrict__ gap;                     // [B]
  double* __restrict__ partial;            // [B, chunks, 2], null for one chunk
  SpectralSizes sizes;
  int64_t chunks;
};

// Writes J1 and the gap of image b; every thread of the group of kGroup takes part.
template <int kGroup, class T>
__device__ void finish(const Arguments<T>& a, int64_t b, double weighted, double coupling,
                       int rank) {
  const auto& s = a.sizes;
  const double code = half_squared_norm<kGroup>(a.z + b * s.latent, s.latent, rank);
  if (rank == 0) {
    const double deviation = a.sigma[b], beta = a.beta[b];
    const double pixels = static_cast<double>(s.low_height) * s.low_width;
    const double factor = isinf(beta) ? 1 / (deviation * deviation) : beta;
    a.objective[b] = static_cast<T>(0.5 * factor * weighted / pixels + code);
    a.gap[b] = static_cast<T>(coupling / pixels);
  }
}

// One block owns up to kFrequencies small frequencies of one image, each thread one at a time, with
// all its f^2 aliases; kFactor 1 is a blur, 0 any factor:
//   r = y - mean of (h G),  p = mean of |h|^2,  q = 1 / (p + beta sigma^2),  step = conj(h) r q.
// The half spectrum holds an alias as it is, or mirrored at the origin and conjugated. Reads y, G
// and h and writes the step once: 32 bytes a frequency of the image in float32 (h comes from the
// cache, and is read again for f > 1).
template <int kFactor, class T>
__global__ void __launch_bounds__(kThreads) x_update_spectral_kernel(const Arguments<T> a) {
  const auto& s = a.sizes;
  const int64_t b = blockIdx.x / a.chunks;
  const int chunk = static_cast<int>(blockIdx.x % a.chunks);
  const int f = kFactor == 0 ? static_cast<int>(s.factor) : kFactor;
  const int height = static_cast<int>(s.height), width = static_cast<int>(s.width);
  const int columns = width / 2 + 1, low_height = height / f, low_width = width / f;
  const int low_columns = low_width / 2 + 1, plane = height * columns;
  const int count = static_cast<int>(s.channels) * low_height * low_columns;
  const double deviation = a.sigma[b], beta = a.beta[b];
  const bool tied = isinf(beta);
  const T noise = static_cast<T>(beta * deviation * deviation);
  const T mean = T(1) / static_cast<T>(f * f);
  const T scale = tied ? T(0) : T(1) / (static_cast<T>(height) * static_cast<T>(width));
  const Complex<T>* decoded = a.decoded + b * s.channels * plane;
  const Complex<T>* kernel = a.kernel + b * s.kernel_image_stride;
  const Complex<T>* y = a.y + b * count;
  Complex<T>* step = a.step + b * s.channels * plane;

  double weighted = 0, coupling = 0;
  const int end = min(count, (chunk + 1) * kFrequencies);
  for (int item = chunk * kFrequencies + threadIdx.x; item < end; item += kThreads) {
    const int v = item % low_columns, row = item / low_columns;
    const int u = row % low_height, c = row / low_height;
    const Complex<T>* g = decoded + static_cast<int64_t>(c) * plane;
    const Complex<T>* h = kernel + c * s.kernel_channel_stride;
    const bool once = v == 0 || 2 * v == low_width;
    T re = 0, im = 0, power = 0;
    for (int i = 0; i < f; ++i) {
      for (int j = 0; j < f; ++j) {
        const int k = u + i * low_height, l = v + j * low_width;
        const bool held = 2 * l <= width;
        const int at = held ? k * columns + l : (k == 0 ? 0 : height - k) * columns + width - l;
        const Complex<T> hh = h[at], gg = g[at];
        const T image = hh.re * gg.im + hh.im * gg.re;
        re += hh.re * gg.re - hh.im * gg.im;
        im += held ? image : -image;
        power += hh.re * hh.re + hh.im * hh.im;
      }
    }
    const Complex<T> target = y[item];
    re = target.re - mean * re;
    im = target.im - mean * im;
    power *= mean;
    const T q = tied ? T(1) : T(1) / (power + noise);
    const double square = static_cast<double>(re) * re + static_cast<double>(im) * im;
    const double part = (once ? 1.0 : 2.0) * square * q;
    weighted += part;
    if (!tied) coupling += part * q * power;
    re *= q * scale;
    im *= q * scale;
    Complex<T>* out = step + static_cast<int64_t>(c) * plane;
    for (int i = 0; i < f; ++i) {
      for (int j = 0; j < f; ++j) {
        const int k = u + i * low_height, l = v + j * low_width;
        const bool held = 2 * l <= width;
        // Mirrors of a column held once belong to the frequency at -u, which writes them directly.
        if (!held && once) continue;
        const int at = held ? k * columns + l : (k == 0 ? 0 : height - k) * columns + width - l;
        const Complex<T> hh = h[at];
        const T turned = held ? im : -im;
        out[at] = {hh.re * re + hh.im * turned, hh.re * turned - hh.im * re};
      }
    }
  }
  weighted = group_sum<kThreads>(weighted);
  coupling = group_sum<kThreads>(coupling);
  if (a.chunks == 1) {
    finish<kThreads>(a, b, weighted, coupling, threadIdx.x);
  } else if (threadIdx.x == 0) {
    a.partial[2 * blockIdx.x] = weighted;
    a.partial[2 * blockIdx.x + 1] = coupling;
  }
}

// One warp owns one image: the sum of its chunks, lane by lane in a fixed order.
template <class T>
__global__ void __launch_bounds__(kThreads) x_update_spectral_finish_kernel(const Arguments<T> a) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int rank = threadIdx.x % 32;
  if (b >= a.sizes.batch) return;
  double weighted = 0, coupling = 0;
  for (int64_t c = rank; c < a.chunks; c += 32) {
    weighted += a.partial[2 * (b * a.chunks + c)];
    coupling += a.partial[2 * (b * a.chunks + c) + 1];
  }
  finish<32>(a, b, group_sum<32>(weighted), group_sum<32>(coupling), rank);
}

std::tuple<Tensor, Tensor, Tensor> x_update_spectral(Tensor decoded, Tensor y, Tensor kernel,
                                                     Tensor z, Tensor beta, Tensor sigma,
                                                     int64_t width, int64_t factor) {
  const auto sizes = check_x_update_spectral(decoded, y, kernel, z, beta, sigma, width, factor);
  STD_TORCH_CHECK(sizes.channels * sizes.height * sizes.columns < (int64_t{1} << 30),
                  "x_update_spectral: expected images of fewer than 2^30 frequencies");
  const uintptr_t pair = decoded.scalar_type() == torch::headeronly::ScalarType::Float ? 8 : 16;
  check_aligned("x_update_spectral", "decoded", decoded, pair);
  check_aligned("x_update_spectral", "y", y, pair);
  check_aligned("x_update_spectral", "kernel", kernel, pair);
  const torch::stable::accelerator::DeviceGuard guard(decoded.get_device());
  Tensor step = torch::stable::empty_like(decoded);
  Tensor objective = torch::stable::empty_like(beta);
  Tensor gap = torch::stable::empty_like(beta);
  if (sizes.batch == 0) return {step, objective, gap};
  const int64_t count = sizes.channels * sizes.low_height * sizes.low_columns;
  const int64_t chunks = std::max<int64_t>(1, (count + kFrequencies - 1) / kFrequencies);
  Tensor partial = torch::stable::new_empty(beta, {chunks > 1 ? sizes.batch * chunks * 2 : 0},
                                            torch::headeronly::ScalarType::Double);
  const cudaStream_t stream = current_stream(decoded);
  dispatch_floating("x_update_spectral", decoded, [&](auto zero) {
    using T = decltype(zero);
    const auto spectrum = [](const Tensor& t) {
      return reinterpret_cast<const Complex<T>*>(read<T>(t));
    };
    const Arguments<T> a{spectrum(decoded),
                         spectrum(y),
                         spectrum(kernel),
                         read<T>(z),
                         read<T>(beta),
                         read<T>(sigma),
                         reinterpret_cast<Complex<T>*>(write<T>(step)),
                         write<T>(objective),
                         write<T>(gap),
                         write<double>(partial),
                         sizes,
                         chunks};
    const auto kernel_function =
        factor == 1 ? x_update_spectral_kernel<1, T> : x_update_spectral_kernel<0, T>;
    kernel_function<<<static_cast<unsigned int>(sizes.batch * chunks), kThreads, 0, stream>>>(a);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (chunks > 1) {
      x_update_spectral_finish_kernel<T><<<blocks_for<32>(sizes.batch), kThreads, 0, stream>>>(a);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  });
  return {step, objective, gap};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("x_update_spectral", TORCH_BOX(&x_update_spectral));
}

}  // namespace jpmap
