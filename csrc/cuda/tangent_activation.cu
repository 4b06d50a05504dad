// Tangents of a decoder through an activation, and what the activation adds to the curvature.
//
//   u = t + add,   out = u f'(a),   curvature += u diag(c f''(a)) u^T
//
// for the k tangents of each image, which lie row by row with channels innermost. One pass: t (and
// add) is read once and out written once, 4 (or 6) bytes an element; the k x k product is made on
// the matrix units from the tile that passes through shared memory.
#include <cuda_bf16.h>
#include <torch/csrc/stable/library.h>

#include <optional>

#include "check.h"
#include "cuda/launch.cuh"
#include "cuda/mlp_network.cuh"

namespace jpmap {
namespace {

constexpr int kColumns = 64;         // elements of a row that a tile holds
constexpr int kRow = kColumns + 32;  // stride in shared memory: neighbouring rows in other banks
constexpr int64_t kSplit = 1024;     // elements of a row that a block owns

// Rows [B or 1, k, n] in bfloat16. Shuffled: as they come before a pixel shuffle by two, whose
// convolution has its outputs in the order (i, j, channel).
struct Rows {
  const __nv_bfloat16* __restrict__ data;
  int64_t batch;  // stride between images, 0 where all have the same
  bool shuffled;
};

struct Arguments {
  Rows t, add;                          // add.data may be null
  const float* __restrict__ before;     // a [B, C, S]
  const float* __restrict__ after;      // f(a) [B, C, S]
  const float* __restrict__ cotangent;  // c [B, C, S], null without curvature
  __nv_bfloat16* __restrict__ out;      // [B, k, n]
  float* __restrict__ curvature;        // [B, slots, k, k]
  int rows, pixels, channels, positions, width, slots;
  Activation activation;
};

__device__ inline void mma_bfloat16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <class F>
__device__ inline uint32_t pairwise(uint32_t x, uint32_t y, const F& f) {
  const __nv_bfloat162 result =
      f(*reinterpret_cast<__nv_bfloat162*>(&x), *reinterpret_cast<__nv_bfloat162*>(&y));
  return *reinterpret_cast<const uint32_t*>(&result);
}

__device__ inline uint4 sum(uint4 x, uint4 y) {
  const auto f = [](__nv_bfloat162 a, __nv_bfloat162 b) { return __hadd2(a, b); };
  return {pairwise(x.x, y.x, f), pairwise(x.y, y.y, f), pairwise(x.z, y.z, f),
          pairwise(x.w, y.w, f)};
}

__device__ inline uint4 product(uint4 x, uint4 y) {
  const auto f = [](__nv_bfloat162 a, __nv_bfloat162 b) { return __hmul2(a, b); };
  return {pairwise(x.x, y.x, f), pairwise(x.y, y.y, f), pairwise(x.z, y.z, f),
          pairwise(x.w, y.w, f)};
}

// Where element n of a row lies before the shuffle.
__device__ inline int unshuffled(int n, int channels, int width) {
  const int position = n / channels, channel = n % channels;
  const int y = position / width, x = position % width;
  return ((y / 2 * (width / 2) + x / 2) * 4 + y % 2 * 2 + x % 2) * channels + channel;
}

// How kRows rows of a tile are shared: a thread holds 8 neighbouring elements, its `part`, of every
// 32nd row, a warp 16 rows of the k x k sum and 8 kWide of its columns.
template <int kRows>
struct Shares {
  static constexpr int kEach = kRows / 32, kRowTiles = kRows / 16;
  static constexpr int kWarpsAcross = 8 / kRowTiles, kWide = kRows / 8 / kWarpsAcross;
  int part = threadIdx.x % 8, row = threadIdx.x / 8;
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  int top = threadIdx.x / 32 % kRowTiles * 16;
  int left = threadIdx.x / 32 / kRowTiles * (8 * kWide);
};

// u = t + add: elements [n, n + 8) of the thread's rows, zero beyond row k.
template <int kRows>
__device__ __forceinline__ void load_rows(const Arguments& a, const Shares<kRows>& my, int64_t b,
                                          int n, uint4 (&u)[Shares<kRows>::kEach]) {
  const int from = a.t.shuffled ? unshuffled(n, a.channels, a.width) : n;
#pragma unroll
  for (int i = 0; i < my.kEach; ++i) {
    const int64_t r = my.row + 32 * i;
    u[i] =
        r < a.rows
            ? __ldg(reinterpret_cast<const uint4*>(a.t.data + b * a.t.batch + r * a.pixels + from))
            : uint4{0, 0, 0, 0};
  }
  if (a.add.data == nullptr) return;
  const int other = a.add.shuffled ? unshuffled(n, a.channels, a.width) : n;
#pragma unroll
  for (int i = 0; i < my.kEach; ++i) {
    const int64_t r = my.row + 32 * i;
    if (r < a.rows) {
      u[i] = sum(u[i], __ldg(reinterpret_cast<const uint4*>(a.add.data + b * a.add.batch +
                                                            r * a.pixels + other)));
    }
  }
}

// A thread an element: f' and c f'' of the tile that begins at `at`.
template <bool kCurvature>
__device__ __forceinline__ void derive(const Arguments& a, int64_t b, int at, __nv_bfloat16* slopes,
                                       __nv_bfloat16* bends) {
  if (threadIdx.x >= kColumns) return;
  const int element = at + threadIdx.x;
  const int position = element / a.channels, channel = element % a.channels;
  const int64_t index = (b * a.channels + channel) * a.positions + position;
  const Derivatives d = derivatives(a.activation, a.before[index], a.after[index]);
  slopes[threadIdx.x] = __float2bfloat16(d.slope);
  if (kCurvature) bends[threadIdx.x] = __float2bfloat16(a.cotangent[index] * d.bend);
}

// out = u f', and u to the tile.
template <int kRows, bool kCurvature>
__device__ __forceinline__ void store_rows(const Arguments& a, const Shares<kRows>& my, int64_t b,
                                           int n, const uint4 (&u)[Shares<kRows>::kEach],
                                           const __nv_bfloat16* slopes, __nv_bfloat16* tile) {
  const uint4 slope = *reinterpret_cast<const uint4*>(slopes + 8 * my.part);
#pragma unroll
  for (int i = 0; i < my.kEach; ++i) {
    const int64_t r = my.row + 32 * i;
    if (r < a.rows) {
      *reinterpret_cast<uint4*>(a.out + (b * a.rows + r) * a.pixels + n) = product(u[i], slope);
    }
    if (kCurvature) *reinterpret_cast<uint4*>(&tile[r * kRow + 8 * my.part]) = u[i];
  }
}

// What the tile adds to the warp's part of u diag(c f'') u^T. Which element a fragment's place
// stands for is free as long as both factors agree: every lane reads 16 neighbouring bytes of its
// rows.
template <int kRows>
__device__ __forceinline__ void add_curvature(const Shares<kRows>& my, const __nv_bfloat16* tile,
                                              const __nv_bfloat16* bends,
                                              float (&total)[Shares<kRows>::kWide][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = 32 * half + 8 * my.t;
    const uint4 bend = *reinterpret_cast<const uint4*>(bends + column);
    const uint4 upper =
        product(*reinterpret_cast<const uint4*>(&tile[(my.top + my.g) * kRow + column]), bend);
    const uint4 lower =
        product(*reinterpret_cast<const uint4*>(&tile[(my.top + 8 + my.g) * kRow + column]), bend);
#pragma unroll
    for (int j = 0; j < my.kWide; ++j) {
      const uint4 other =
          *reinterpret_cast<const uint4*>(&tile[(my.left + 8 * j + my.g) * kRow + column]);
      mma_bfloat16(total[j], upper.x, lower.x, upper.y, lower.y, other.x, other.y);
      mma_bfloat16(total[j], upper.z, lower.z, upper.w, lower.w, other.z, other.w);
    }
  }
}

// A block owns kSplit elements of all rows of one image and walks through them in tiles of
// kColumns, its part of the k x k sum in registers.
template <int kRows, bool kCurvature>
__global__ void __launch_bounds__(kThreads) tangent_activation_kernel(const Arguments a) {
  // u: store_rows -> stored -> add_curvature; the next tile's, after `derived`. Zero beyond row k.
  __shared__ alignas(16) __nv_bfloat16 tile[kRows * kRow];
  // Of even and of odd tiles: derive -> derived -> store_rows, add_curvature; the next writer comes
  // two tiles on, after the `derived` between.
  __shared__ alignas(16) __nv_bfloat16 slopes[2][kColumns];
  __shared__ alignas(16) __nv_bfloat16 bends[2][kColumns];
  const Shares<kRows> my;
  const int64_t b = blockIdx.y;
  const int begin = blockIdx.x * static_cast<int>(kSplit);
  const int end = min(a.pixels, begin + static_cast<int>(kSplit));
  float total[my.kWide][4] = {};

  for (int at = begin, turn = 0; at < end; at += kColumns, turn ^= 1) {
    const int n = at + 8 * my.part;
    uint4 u[my.kEach];
    load_rows(a, my, b, n, u);
    derive<kCurvature>(a, b, at, slopes[turn], bends[turn]);
    __syncthreads();  // derived
    store_rows<kRows, kCurvature>(a, my, b, n, u, slopes[turn], tile);
    if (!kCurvature) continue;
    __syncthreads();  // stored
    add_curvature(my, tile, bends[turn], total);
  }
  if (!kCurvature) return;
  float* result = a.curvature + (b * a.slots + blockIdx.x) * a.rows * a.rows;
#pragma unroll
  for (int j = 0; j < my.kWide; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = my.top + my.g + i / 2 * 8, c = my.left + 8 * j + 2 * my.t + i % 2;
      if (r < a.rows && c < a.rows) result[r * a.rows + c] += total[j][i];
    }
  }
}

template <int kRows>
void launch(const Arguments& a, int64_t batch, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((a.pixels + kSplit - 1) / kSplit),
                  static_cast<unsigned>(batch));
  const auto kernel = a.curvature != nullptr ? tangent_activation_kernel<kRows, true>
                                             : tangent_activation_kernel<kRows, false>;
  kernel<<<grid, kThreads, 0, stream>>>(a);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Rows rows_of(const char* name, const Tensor& tensor, const Tensor& like, int64_t batch,
             bool shuffled) {
  constexpr const char* op = "tangent_activation";
  const int64_t images = tensor.size(0);
  STD_TORCH_CHECK(images == batch || images == 1, op, ": expected ", name, " of ", batch,
                  " images or one");
  check(op, name, tensor, like, {images, like.size(1), like.size(2)});
  check_aligned(op, name, tensor);
  return {read<__nv_bfloat16>(tensor), images == 1 ? 0 : like.size(1) * like.size(2), shuffled};
}

Tensor tangent_activation(Tensor t,                         // [B or 1, k, n] bfloat16
                          std::optional<Tensor> add,        // [B or 1, k, n]
                          Tensor before,                    // [B, C, S] float32
                          Tensor after,                     // [B, C, S]
                          std::optional<Tensor> cotangent,  // [B, C, S]
                          std::optional<Tensor> curvature,  // [B, slots, k, k] float32
                          int64_t activation, int64_t width, bool t_shuffled, bool add_shuffled) {
  constexpr const char* op = "tangent_activation";
  STD_TORCH_CHECK(t.dim() == 3 && before.dim() == 3, op, ": expected t [B, k, n], a [B, C, S]");
  STD_TORCH_CHECK(t.scalar_type() == torch::headeronly::ScalarType::BFloat16 &&
                      before.scalar_type() == torch::headeronly::ScalarType::Float,
                  op, ": expected t in bfloat16 and a in float32");
  const int64_t batch = before.size(0), rows = t.size(1), pixels = t.size(2);
  const int64_t channels = before.size(1), positions = before.size(2);
  STD_TORCH_CHECK(channels * positions == pixels && channels % 8 == 0 && pixels % kColumns == 0, op,
                  ": expected C S = n, a multiple of ", kColumns, ", and C a multiple of 8");
  STD_TORCH_CHECK(rows >= 1 && rows <= 128, op, ": expected 1 to 128 tangents, got ", rows);
  STD_TORCH_CHECK(activation >= 0 && activation <= 6, op, ": unknown activation ", activation);
  STD_TORCH_CHECK(
      width >= 1 && positions % width == 0 &&
          (!(t_shuffled || add_shuffled) || (width % 2 == 0 && positions / width % 2 == 0)),
      op, ": expected a width that divides the positions, even if shuffled");
  STD_TORCH_CHECK(pixels < (int64_t{1} << 30) && batch <= 65535, op, ": too many elements");
  STD_TORCH_CHECK(cotangent.has_value() == curvature.has_value(), op,
                  ": expected cotangent and curvature, or neither");
  check_shape(op, "before", before, {batch, channels, positions});
  check_device(op, "before", before, t);
  check(op, "after", after, before, {batch, channels, positions});
  const int64_t splits = (pixels + kSplit - 1) / kSplit;
  int64_t slots = 0;
  if (curvature.has_value()) {
    check(op, "cotangent", *cotangent, before, {batch, channels, positions});
    slots = curvature->size(1);
    check(op, "curvature", *curvature, before, {batch, slots, rows, rows});
    STD_TORCH_CHECK(slots >= splits, op, ": expected ", splits, " slots, got ", slots);
  }
  const torch::stable::accelerator::DeviceGuard guard(before.get_device());
  Arguments a{};
  a.t = rows_of("t", t, t, batch, t_shuffled);
  if (add.has_value()) a.add = rows_of("add", *add, t, batch, add_shuffled);
  Tensor out = torch::stable::new_empty(t, {batch, rows, pixels});
  if (batch == 0) return out;
  a.before = read<float>(before);
  a.after = read<float>(after);
  a.out = write<__nv_bfloat16>(out);
  if (curvature.has_value()) {
    a.cotangent = read<float>(*cotangent);
    a.curvature = write<float>(*curvature);
  }
  a.rows = static_cast<int>(rows);
  a.pixels = static_cast<int>(pixels);
  a.channels = static_cast<int>(channels);
  a.positions = static_cast<int>(positions);
  a.width = static_cast<int>(width);
  a.slots = static_cast<int>(slots);
  a.activation = static_cast<Activation>(activation);
  if (rows <= 64) {
    launch<64>(a, batch, current_stream(before));
  } else {
    launch<128>(a, batch, current_stream(before));
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("tangent_activation", TORCH_BOX(&tangent_activation));
}

}  // namespace jpmap
