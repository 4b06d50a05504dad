// Student-t mixtures of images at many codes each (student_mixture, student_mixture_sums): the
// proposals of a sampler. A thread owns a code, a block of the sums a component of an image, so
// that its sums have one order.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "student_mixture.h"

namespace jpmap {
namespace {

constexpr int kCodes = 128;  // threads of a block
constexpr int kTile = 64;    // codes whose steps are summed together

struct Arguments {
  const double* __restrict__ z;           // [B, N, k]
  const double* __restrict__ log_weight;  // [B, C]
  const double* __restrict__ mean;        // [B, C, k]
  const double* __restrict__ scale;       // [B, C, k, k]
  int draws, latent, components;
  double degrees, constant;  // log of t at its mean for a scale of I
  bool has_prior;
  double log_prior, log_rest;  // log of the prior's part at 0, and of what the others are
};

int64_t triangle(int64_t k) { return k * (k + 1) / 2; }

// A component in shared memory: its factor, row after row with the diagonal inverted, and its mean.
struct Component {
  double *factor, *mean, *logs;  // [k (k + 1) / 2], [k], [k]
  double height;                 // log of w_c t_c at its mean

  __device__ Component(double* room, int k)
      : factor(room), mean(room + k * (k + 1) / 2), logs(mean + k), height(0) {}
};

// Numbers of it.
int64_t component_room(int64_t k) { return triangle(k) + 2 * k; }

__device__ bool is_used(double log_weight) { return !(log_weight == -INFINITY); }

// By all threads of a block, which may still read the one before.
__device__ void load(const Arguments& a, int64_t at, Component& c) {
  const int k = a.latent;
  __syncthreads();
  for (int e = threadIdx.x; e < k * k; e += kCodes) {
    const int i = e / k, j = e % k;
    if (j > i) continue;
    const double value = a.scale[at * k * k + e];
    c.factor[i * (i + 1) / 2 + j] = i == j ? 1 / value : value;
    if (i == j) c.logs[i] = log(value);
  }
  for (int i = threadIdx.x; i < k; i += kCodes) c.mean[i] = a.mean[at * k + i];
  __syncthreads();
  c.height = a.constant + a.log_weight[at];
  for (int i = 0; i < k; ++i) c.height -= c.logs[i];
}

// ||L^{-1} (z - mean)||^2 of a code of up to kMost entries.
template <int kMost>
__device__ double distance(const double (&z)[kMost], const Component& c, int k) {
  double step[kMost], total = 0;
#pragma unroll(kMost <= 8 ? kMost : 1)
  for (int i = 0; i < kMost; ++i) {
    if (i >= k) break;
    const double* row = c.factor + i * (i + 1) / 2;
    double value = z[i] - c.mean[i];
#pragma unroll(kMost <= 8 ? kMost : 4)
    for (int j = 0; j < i; ++j) value -= row[j] * step[j];
    step[i] = value * row[i];
    total += step[i] * step[i];
  }
  return total;
}

template <int kMost>
__device__ void read_code(const Arguments& a, int64_t at, double (&z)[kMost]) {
#pragma unroll(kMost <= 8 ? kMost : 1)
  for (int i = 0; i < kMost; ++i) {
    if (i < a.latent) z[i] = a.z[at * a.latent + i];
  }
}

__device__ double log_part(const Arguments& a, double height, double square) {
  return height - 0.5 * (a.degrees + a.latent) * log1p(square / a.degrees);
}

// log(exp(a) + exp(b)); NaN where one is.
__device__ double log_sum(double a, double b) {
  const double top = a > b ? a : b, low = a > b ? b : a;
  return isinf(top) && low == low ? top : top + log1p(exp(low - top));
}

template <int kMost>
__global__ void __launch_bounds__(kCodes)
    density_kernel(const Arguments a, int blocks, double* __restrict__ out) {
  extern __shared__ double shared[];
  const int64_t image = blockIdx.x / blocks;
  const int n = blockIdx.x % blocks * kCodes + threadIdx.x;
  const bool there = n < a.draws;
  double z[kMost] = {};
  if (there) read_code(a, image * a.draws + n, z);
  Component one(shared, a.latent);
  double total = -INFINITY;
  for (int c = 0; c < a.components; ++c) {
    const int64_t at = image * a.components + c;
    if (!is_used(a.log_weight[at])) continue;  // all threads see the same
    load(a, at, one);
    total = log_sum(total, log_part(a, one.height, distance(z, one, a.latent)));
  }
  if (!there) return;
  if (a.has_prior) {
    double norm = 0;
#pragma unroll(kMost <= 8 ? kMost : 1)
    for (int i = 0; i < kMost; ++i) {
      if (i < a.latent) norm += z[i] * z[i];
    }
    total = log_sum(total + a.log_rest, a.log_prior - 0.5 * norm);
  }
  out[image * a.draws + n] = total;
}

struct Sums {
  double* __restrict__ mass;     // [B, C]
  double* __restrict__ squares;  // [B, C]
  double* __restrict__ robust;   // [B, C]
  double* __restrict__ first;    // [B, C, k]
  double* __restrict__ second;   // [B, C, k, k]
};

// What the codes of a tile are to a component.
struct Tile {
  double *own, *robust, *steps;  // [kTile], [kTile], [kTile][stride]
  int stride;                    // odd: a column lies in all banks

  __device__ Tile(double* room, int k)
      : own(room), robust(room + kTile), steps(room + 2 * kTile), stride(k | 1) {}
};

int64_t tile_room(int64_t k) { return kTile * (2 + (k | 1)); }

// The sums of a component: mass, squares and robust, those of steps, and of their products.
__host__ __device__ inline int64_t sum_count(int64_t k) { return 3 + k + k * (k + 1) / 2; }

// Row and column of the entry `at` of a lower triangle.
__device__ void place_in_triangle(int at, int& i, int& j) {
  i = static_cast<int>((sqrtf(8.0f * at + 1) - 1) / 2);
  while (i * (i + 1) / 2 > at) --i;
  while ((i + 1) * (i + 2) / 2 <= at) ++i;
  j = at - i * (i + 1) / 2;
}

// The part of the codes of a tile in one of the sums.
__device__ double tile_sum(const Tile& t, int which, int k) {
  double total = 0;
  if (which < 3) {
    for (int n = 0; n < kTile; ++n) {
      total += which == 0 ? t.own[n] : which == 1 ? t.own[n] * t.own[n] : t.robust[n];
    }
  } else if (which < 3 + k) {
    for (int n = 0; n < kTile; ++n) total += t.robust[n] * t.steps[n * t.stride + which - 3];
  } else {
    int i, j;
    place_in_triangle(which - 3 - k, i, j);
    for (int n = 0; n < kTile; ++n) {
      const double* step = t.steps + n * t.stride;
      total += t.robust[n] * step[i] * step[j];
    }
  }
  return total;
}

__device__ void write_sum(const Sums& out, int64_t at, int which, int k, double value) {
  if (which < 3) {
    (which == 0 ? out.mass : which == 1 ? out.squares : out.robust)[at] = value;
  } else if (which < 3 + k) {
    out.first[at * k + which - 3] = value;
  } else {
    int i, j;
    place_in_triangle(which - 3 - k, i, j);
    out.second[(at * k + i) * k + j] = value;
    out.second[(at * k + j) * k + i] = value;
  }
}

// `total`: log of the sum of all parts [B, N].
template <int kMost>
__global__ void __launch_bounds__(kCodes)
    sums_kernel(const Arguments a, const double* __restrict__ weights,
                const double* __restrict__ total, const Sums out) {
  extern __shared__ double shared[];
  const int64_t at = blockIdx.x, image = at / a.components;
  const int k = a.latent, count = static_cast<int>(sum_count(k));
  const bool used = is_used(a.log_weight[at]);
  Component one(shared, k);
  double* const sums = one.logs + k;
  const Tile tile(sums + count, k);
  for (int i = threadIdx.x; i < count; i += kCodes) sums[i] = 0;
  if (used) load(a, at, one);
  for (int begin = 0; used && begin < a.draws; begin += kTile) {
    __syncthreads();
    if (threadIdx.x < kTile) {
      const int n = threadIdx.x;
      const int64_t code = image * a.draws + begin + n;
      const bool there = begin + n < a.draws;
      double z[kMost] = {}, own = 0, square = 0;
      if (there) {
        read_code(a, code, z);
        square = distance(z, one, k);
        own = weights[code] * exp(log_part(a, one.height, square) - total[code]);
      }
      tile.own[n] = own;
      tile.robust[n] = own * (a.degrees + k) / (a.degrees + square);
#pragma unroll(kMost <= 8 ? kMost : 1)
      for (int i = 0; i < kMost; ++i) {
        if (i < k) tile.steps[n * tile.stride + i] = there ? z[i] - one.mean[i] : 0;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kCodes) sums[i] += tile_sum(tile, i, k);
  }
  // Each sum is one thread's from beginning to end.
  for (int i = threadIdx.x; i < count; i += kCodes) write_sum(out, at, i, k, sums[i]);
}

// run(the number of entries that codes of k fit into).
template <class Run>
void with_room_for(int64_t k, const Run& run) {
  if (k <= 8) return run(std::integral_constant<int, 8>());
  if (k <= 16) return run(std::integral_constant<int, 16>());
  if (k <= 32) return run(std::integral_constant<int, 32>());
  run(std::integral_constant<int, kMaxMixtureLatent>());
}

Arguments arguments(const char* op, const MixtureSizes& sizes, const Tensor& z,
                    const Tensor& log_weight, const Tensor& mean, const Tensor& scale,
                    double degrees, double defensive) {
  const auto& [batch, draws, k, components] = sizes;
  STD_TORCH_CHECK(k <= kMaxMixtureLatent, op, ": expected codes of ", kMaxMixtureLatent,
                  " entries at most, got ", k);
  STD_TORCH_CHECK(batch * std::max(components, (draws + kCodes - 1) / kCodes) < (int64_t{1} << 31),
                  op, ": too many images");
  return {read<double>(z),
          read<double>(log_weight),
          read<double>(mean),
          read<double>(scale),
          static_cast<int>(draws),
          static_cast<int>(k),
          static_cast<int>(components),
          degrees,
          log_of_student(degrees, k),
          defensive > 0,
          log_of_prior(defensive, k),
          std::log1p(-defensive)};
}

// Densities [B, N] of a batch that is not empty.
Tensor density(const char* op, const Arguments& a, int64_t batch, const Tensor& z) {
  Tensor out = torch::stable::new_empty(z, {batch, a.draws});
  if (batch == 0 || a.draws == 0) return out;
  const int blocks = (a.draws + kCodes - 1) / kCodes;
  with_room_for(a.latent, [&](auto most) {
    const auto kernel = density_kernel<most()>;
    const int64_t bytes = 8 * component_room(a.latent);
    allow_shared_memory(op, kernel, 8 * component_room(kMaxMixtureLatent));
    kernel<<<static_cast<unsigned>(batch * blocks), kCodes, bytes, current_stream(z)>>>(
        a, blocks, write<double>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

Tensor student_mixture(Tensor z, Tensor log_weight, Tensor mean, Tensor scale, double degrees,
                       double defensive) {
  const char* op = "student_mixture";
  const auto sizes = check_mixture(op, z, log_weight, mean, scale, degrees);
  check_defensive(op, defensive);
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  const auto a = arguments(op, sizes, z, log_weight, mean, scale, degrees, defensive);
  return density(op, a, sizes.batch, z);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> student_mixture_sums(Tensor z, Tensor weights,
                                                                        Tensor log_weight,
                                                                        Tensor mean, Tensor scale,
                                                                        double degrees) {
  const char* op = "student_mixture_sums";
  const auto sizes = check_mixture(op, z, log_weight, mean, scale, degrees);
  const auto& [batch, draws, k, components] = sizes;
  check(op, "weights", weights, z, {batch, draws});
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  const auto made = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(z, shape);
  };
  Tensor mass = made({batch, components}), squares = made({batch, components});
  Tensor robust = made({batch, components}), first = made({batch, components, k});
  Tensor second = made({batch, components, k, k});
  const auto a = arguments(op, sizes, z, log_weight, mean, scale, degrees, 0);
  if (batch * components > 0) {
    const Tensor total = density(op, a, batch, z);
    const Sums out{write<double>(mass), write<double>(squares), write<double>(robust),
                   write<double>(first), write<double>(second)};
    with_room_for(k, [&](auto most) {
      const auto kernel = sums_kernel<most()>;
      const auto bytes = [](int64_t latent) {
        return 8 * (component_room(latent) + sum_count(latent) + tile_room(latent));
      };
      allow_shared_memory(op, kernel, bytes(kMaxMixtureLatent));
      kernel<<<static_cast<unsigned>(batch * components), kCodes, bytes(a.latent),
               current_stream(z)>>>(a, read<double>(weights), read<double>(total), out);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {mass, squares, robust, first, second};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("student_mixture", TORCH_BOX(&student_mixture));
  m.impl("student_mixture_sums", TORCH_BOX(&student_mixture_sums));
}

}  // namespace jpmap
