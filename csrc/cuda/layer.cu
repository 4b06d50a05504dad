// A layer f(W x + b) of a few rows in one launch, for graphs in which every launch counts.
//
// A warp makes one output of every row: it reads its row of W once, side by side, and an element
// of the result is one sum whatever rows share the call.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "cuda/mlp_network.cuh"

namespace jpmap {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kMaxRows = 8;

template <int kRows, int kPack>
__global__ void __launch_bounds__(kThreads)
    layer_kernel(const float* __restrict__ x,       // [kRows, inputs]
                 const float* __restrict__ weight,  // [outputs, inputs]
                 const float* __restrict__ bias,    // [outputs], or null
                 float* __restrict__ out,           // [kRows, outputs]
                 int inputs, int outputs, Activation activation) {
  struct alignas(kPack * sizeof(float)) Packed {
    float at[kPack];
  };
  const int lane = threadIdx.x % 32, output = blockIdx.x * kWarps + threadIdx.x / 32;
  if (output >= outputs) return;
  const float* row = weight + static_cast<int64_t>(output) * inputs;
  float sum[kRows] = {};
  for (int i = lane * kPack; i < inputs; i += 32 * kPack) {
    const Packed w = *reinterpret_cast<const Packed*>(row + i);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Packed v = *reinterpret_cast<const Packed*>(x + r * inputs + i);
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum[r] = fmaf(w.at[j], v.at[j], sum[r]);
    }
  }
  const float shift = bias == nullptr ? 0.0f : bias[output];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    for (int offset = 16; offset > 0; offset /= 2) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], offset);
    }
    if (lane == 0) out[r * outputs + output] = activate(activation, sum[r] + shift);
  }
}

struct Launch {
  const float *x, *weight, *bias;
  float* out;
  int inputs, outputs;
  Activation activation;
  cudaStream_t stream;
};

template <int kRows>
void launch(const Launch& at) {
  const int blocks = (at.outputs + kWarps - 1) / kWarps;
  const bool wide = at.inputs % 4 == 0 && aligned(at.x, 16) && aligned(at.weight, 16);
  const auto kernel = wide ? layer_kernel<kRows, 4> : layer_kernel<kRows, 1>;
  kernel<<<blocks, kThreads, 0, at.stream>>>(at.x, at.weight, at.bias, at.out, at.inputs,
                                             at.outputs, at.activation);
}

template <int kRows>
void launch_for(int64_t rows, const Launch& at) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return launch<kRows>(at);
    launch_for<kRows - 1>(rows, at);
  }
}

Tensor layer(Tensor x, Tensor weight, std::optional<Tensor> bias, int64_t activation) {
  constexpr const char* op = "layer";
  check_activation(op, activation);
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2, op, ": expected x [R, in], weight [out, in]");
  STD_TORCH_CHECK(x.scalar_type() == torch::headeronly::ScalarType::Float, op,
                  ": expected float32, got ", torch::headeronly::toString(x.scalar_type()));
  const int64_t rows = x.size(0), inputs = x.size(1), outputs = weight.size(0);
  STD_TORCH_CHECK(rows <= kMaxRows && inputs * kMaxRows < INT32_MAX && outputs < INT32_MAX, op,
                  ": expected at most ", kMaxRows, " rows, got ", rows);
  check_shape(op, "x", x, {rows, inputs});
  check(op, "weight", weight, x, {outputs, inputs});
  if (bias.has_value()) check(op, "bias", *bias, x, {outputs});
  Tensor out = torch::stable::new_empty(x, {rows, outputs});
  if (rows == 0 || outputs == 0) return out;
  const torch::stable::accelerator::DeviceGuard guard(x.get_device());
  launch_for<kMaxRows>(
      rows, {read<float>(x), read<float>(weight), bias.has_value() ? read<float>(*bias) : nullptr,
             write<float>(out), static_cast<int>(inputs), static_cast<int>(outputs),
             static_cast<Activation>(activation), current_stream(x)});
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) { m.impl("layer", TORCH_BOX(&layer)); }

}  // namespace jpmap
