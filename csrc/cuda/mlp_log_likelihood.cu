// The data term of many codes an image (mlp_log_likelihood): the draws of a sampler.
//
// One launch a round. A block takes 16 or 32 draws at a time, of one image or of neighbours; their
// values pass from layer to layer through shared memory, and an output is compared in the registers
// that the matrix unit leaves it in: beside codes and measurements only sums touch device memory.
// Products have one tf32 part and float32 sums, an error of about 0.02 nats between the draws of an
// image. A draw's sums are taken in an order that its network alone decides.
#include <torch/csrc/stable/library.h>

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_arguments.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {
namespace {

// A block's view of its shared memory, and between which __syncthreads it is written and read.
struct DrawTile {
  const MlpNetwork& net;
  const MlpDrawLayout& at;
  double* sums;       // [rows][kSums]. load, compare_pair -> compared -> write
  char* areas;        // two, as in mlp_tile.cuh: layer l's values in area l % 2
  float* codes;       // [rows][k]. load -> loaded -> first_layer
  long long* images;  // [rows]. load -> loaded -> compare_pair
  int count;          // of rows that are draws; the others are zeros

  __device__ float* area(int l) const {
    return reinterpret_cast<float*>(areas + (l % 2 == 0 ? 0 : at.area[0]));
  }
};

__device__ __forceinline__ void load(const DrawTile& tile, const MlpData& data, int64_t draws,
                                     int64_t first) {
  const int k = tile.net.latent;
  for (int i = threadIdx.x; i < tile.at.rows * MlpDrawLayout::kSums; i += kMlpThreads) {
    tile.sums[i] = 0;
  }
  for (int i = threadIdx.x; i < tile.at.rows * k; i += kMlpThreads) {
    tile.codes[i] = i < tile.count * k ? data.start[first * k + i] : 0.0f;
  }
  if (threadIdx.x < tile.count) tile.images[threadIdx.x] = (first + threadIdx.x) / draws;
}

// Layer 0 at codes [rows][k] in shared memory, four at a time: finish(row, output, pre-activation).
template <class Finish>
__device__ __forceinline__ void first_layer(const MlpNetwork& net, const float* codes, int rows,
                                            const Finish& finish) {
  const int k = net.latent;
  const auto& first = net.layers[0];
  for (int j = threadIdx.x; j < first.stride; j += kMlpThreads) {
    const float bias = first.bias[j];
    for (int begin = 0; begin < rows; begin += 4) {
      float sum[4] = {bias, bias, bias, bias};
      for (int c = 0; c < k; ++c) {
        const float w = first.columns[c * first.stride + j];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = min(begin + i, rows - 1);
          sum[i] = fmaf(w, codes[row * k + c], sum[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (begin + i >= rows) break;
        finish(begin + i, j, sum[i]);
      }
    }
  }
}

// Two neighbouring outputs of a draw, and what they are compared with.
struct Pair {
  float2 bias;
  Measured left, right;
  Law law;
};

__device__ __forceinline__ Pair prepare_pair(const DrawTile& tile, const MlpData& data, int row,
                                             int column) {
  const auto& net = tile.net;
  const int p = net.outputs;
  const long long image = tile.images[min(row, tile.count - 1)];
  return {load2(net.layers[net.count - 1].bias + column),
          measured(data, image, p, min(column, p - 1)),
          measured(data, image, p, min(column + 1, p - 1)), law_of(data, image)};
}

// Each thread has a sum of its own for each of its rows: nobody else's.
__device__ __forceinline__ void compare_pair(const DrawTile& tile, int row, int column, float v0,
                                             float v1, const Pair& pair) {
  if (row >= tile.count) return;
  const Activation kind = tile.net.layers[tile.net.count - 1].activation;
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4;
  double total = 0;
  if (column < tile.net.outputs) {
    total += compare(pair.left, pair.law, activate(kind, v0 + pair.bias.x)).term;
  }
  if (column + 1 < tile.net.outputs) {
    total += compare(pair.right, pair.law, activate(kind, v1 + pair.bias.y)).term;
  }
  tile.sums[row * MlpDrawLayout::kSums + 4 * warp + t] += total;
}

// A warp a row: outputs of a network of one layer, from its area.
__device__ __forceinline__ void compare_rows(const DrawTile& tile, const MlpData& data) {
  const int lane = threadIdx.x % 32, p = tile.net.outputs;
  for (int row = threadIdx.x / 32; row < tile.count; row += kMlpWarps) {
    const float* out = tile.area(0) + row * float_row(tile.net.layers[0].stride);
    const Law law = law_of(data, tile.images[row]);
    double total = 0;
    for (int j = lane; j < p; j += 32) {
      total += compare(measured(data, tile.images[row], p, j), law, out[j]).term;
    }
    tile.sums[row * MlpDrawLayout::kSums + lane] = total;
  }
}

__device__ __forceinline__ void pass(const DrawTile& tile, const MlpData& data) {
  const auto& net = tile.net;
  const auto& first = net.layers[0];
  float* bottom = tile.area(0);
  first_layer(net, tile.codes, tile.at.rows, [&](int row, int j, float a) {
    bottom[row * float_row(first.stride) + j] = activate(first.activation, a);
  });
  __syncthreads();  // forward(0)
  for (int l = 1; l + 1 < net.count; ++l) {
    const auto& layer = net.layers[l];
    float* y = tile.area(l);
    const int y_stride = float_row(layer.stride);
    tf32_product(
        tile.area(l - 1), float_row(layer.inputs), layer.rows, layer.inputs, layer.stride,
        tile.at.rows, [&](int, int column) { return load2(layer.bias + column); },
        [&](int row, int column, float v0, float v1, float2 bias) {
          store2(y + row * y_stride + column, activate(layer.activation, v0 + bias.x),
                 activate(layer.activation, v1 + bias.y));
        });
    __syncthreads();  // forward(l)
  }
  if (net.count == 1) {
    compare_rows(tile, data);
  } else {
    const auto& top = net.layers[net.count - 1];
    tf32_product(
        tile.area(net.count - 2), float_row(top.inputs), top.rows, top.inputs, top.stride,
        tile.at.rows, [&](int row, int column) { return prepare_pair(tile, data, row, column); },
        [&](int row, int column, float v0, float v1, const Pair& pair) {
          compare_pair(tile, row, column, v0, v1, pair);
        });
  }
  __syncthreads();  // compared
}

__global__ void __launch_bounds__(kMlpThreads, 1)
    draws_kernel(const __grid_constant__ MlpNetwork net, const __grid_constant__ MlpDrawLayout at,
                 const MlpData data, const int64_t draws, double* out) {
  extern __shared__ __align__(128) char memory[];
  __shared__ long long images[kMlpImages];
  char* areas = memory + 8 * at.rows * MlpDrawLayout::kSums;
  DrawTile tile{net,
                at,
                reinterpret_cast<double*>(memory),
                areas,
                reinterpret_cast<float*>(areas + at.area[0] + at.area[1]),
                images,
                0};
  const int64_t total = data.batch * draws;
  for (int64_t first = blockIdx.x * int64_t{at.rows}; first < total;
       first += gridDim.x * int64_t{at.rows}) {
    tile.count = static_cast<int>(min(int64_t{at.rows}, total - first));
    load(tile, data, draws, first);
    __syncthreads();  // loaded
    pass(tile, data);
    for (int row = threadIdx.x / 32; row < tile.count; row += kMlpWarps) {
      const int lane = threadIdx.x % 32;
      const double sum = group_sum<32>(tile.sums[row * MlpDrawLayout::kSums + lane]);
      if (lane == 0) out[first + row] = -0.5 * sum;
    }
    __syncthreads();  // the next draws may come
  }
}

Tensor mlp_log_likelihood(Tensor z, Tensors weights, Tensors adjoints, Tensors tangents,
                          Tensors biases, Integers activations, Tensor target, Tensor weight,
                          std::optional<Tensor> scale, std::optional<Tensor> law) {
  const char* op = "mlp_log_likelihood";
  const std::optional<Tensor> none;
  const MlpMeasurement measurement{target, weight, scale, none, law};
  const auto sizes =
      check_mlp_rows(op, z, weights, adjoints, tangents, biases, activations, measurement, true);
  STD_TORCH_CHECK(z.scalar_type() == torch::headeronly::ScalarType::Float, op,
                  ": expected float32 on CUDA");
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  Tensor out = torch::stable::new_empty(z, {sizes.batch, sizes.draws},
                                        torch::headeronly::ScalarType::Double);
  const int64_t total = sizes.batch * sizes.draws;
  if (total == 0) return out;
  const int device = z.get_device(), room = room_of(op, device);
  const int processors = attribute(op, cudaDevAttrMultiProcessorCount, device);
  const MlpShape shape = shape_of(weights, sizes.latent);
  const MlpDrawLayout wide(shape, 32), narrow(shape, 16);
  const MlpDrawLayout& at = wide.bytes <= room && total > 16 * int64_t{processors} ? wide : narrow;
  STD_TORCH_CHECK(at.bytes <= room, op,
                  ": the network is too wide for the device's shared memory (", at.bytes,
                  " bytes needed, ", room, " there)");
  const MlpNetwork net = network_of({weights, adjoints, tangents, biases, activations}, sizes);
  const MlpData data = data_of(measurement, z, sizes);
  const int64_t tiles = (total + at.rows - 1) / at.rows;
  allow_shared_memory(op, draws_kernel, room);
  draws_kernel<<<static_cast<unsigned int>(std::min<int64_t>(tiles, processors)), kMlpThreads,
                 at.bytes, current_stream(z)>>>(net, at, data, sizes.draws, write<double>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("mlp_log_likelihood", TORCH_BOX(&mlp_log_likelihood));
}

}  // namespace jpmap
