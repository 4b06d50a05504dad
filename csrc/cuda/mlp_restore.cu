// Gauss-Newton on an MLP decoder, whole solves in one launch (float32). jpmap_fast/solvers/
// gauss_newton.py states the method, csrc/cpu/mlp_restore.cpp is the same loop on a CPU.
//
// A block holds a tile of up to four images in shared memory: codes, activations, the tangents of
// all latent directions, and the k x k systems in double. Weights stream from the L2 cache. A
// finished image makes room for the next one of the queue; a warp owns an image's k x k algebra.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {
namespace {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

struct Data {
  const float* start;      // [B][k]
  const float* target;     // [B][p]
  const float* weight;     // [B][p] or [B][1]
  const float* scale;      // [p] or [B][p], or null
  const double* constant;  // [B], or null
  int64_t batch, scale_stride;
  bool weight_scalar;
};

struct Settings {
  double tolerance, initial_damping;
  int64_t max_steps;
  bool evaluate;  // stop at the starting point and write its system out
};

struct Results {
  float* z;
  double* objective;
  int64_t* steps;
  bool* converged;
  float* output;
  double* gradient;
  double* matrix;
};

struct Slot {
  double objective, damping, growth, promised;
  long long image;  // -1 for an empty slot
  long long steps;
  bool fresh;
};

__device__ double warp_sum(double value) { return group_sum<32>(value); }

// x = (H + damping I)^{-1} g by one warp; false where the matrix is not positive definite.
__device__ bool solve(const double* matrix, double damping, const double* g, int k, double* factor,
                      double* x) {
  const int lane = threadIdx.x % 32;
  for (int j = 0; j < k; ++j) {
    for (int i = j + lane; i < k; i += 32) {
      double sum = matrix[i * k + j] + (i == j ? damping : 0.0);
      for (int c = 0; c < j; ++c) sum -= factor[i * k + c] * factor[j * k + c];
      factor[i * k + j] = sum;
    }
    __syncwarp();
    const double pivot = factor[j * k + j];
    if (!(pivot > 0)) return false;
    const double root = sqrt(pivot);
    __syncwarp();
    for (int i = j + lane; i < k; i += 32) {
      factor[i * k + j] = i == j ? root : factor[i * k + j] / root;
    }
    __syncwarp();
  }
  for (int i = lane; i < k; i += 32) x[i] = g[i];
  __syncwarp();
  for (int c = 0; c < k; ++c) {
    const double value = x[c] / factor[c * k + c];
    __syncwarp();
    for (int i = c + lane; i < k; i += 32) {
      x[i] = i == c ? value : x[i] - factor[i * k + c] * value;
    }
    __syncwarp();
  }
  for (int c = k - 1; c >= 0; --c) {
    const double value = x[c] / factor[c * k + c];
    __syncwarp();
    for (int i = lane; i <= c; i += 32) {
      x[i] = i == c ? value : x[i] - factor[c * k + i] * value;
    }
    __syncwarp();
  }
  return true;
}

__device__ double largest_diagonal(const double* matrix, int k) {
  double largest = matrix[0];
  for (int i = 1; i < k; ++i) largest = fmax(largest, matrix[i * k + i]);
  return largest;
}

// The network at the trial codes of all slots, with slopes.
__device__ void forward(const MlpNetwork& net, const MlpLayout& at, float* f, int images) {
  const float* input = f + at.trial;
  int input_stride = at.code_stride;
  for (int l = 0; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    float* value = f + at.value[l];
    float* slope = f + at.slope[l];
    multiply(input, input_stride, layer.packed, layer.inputs, 0, layer.stride / kMlpPanel, images,
             [&](int row, int column, float sum) {
               const int i = row * layer.stride + column;
               activate(layer.activation, sum + layer.bias[column], value[i], slope[i]);
             });
    __syncthreads();
    input = value;
    input_stride = layer.stride;
  }
}

// One warp: f at the trial of a slot, and what the normal equations need of the residual.
__device__ double residual(const MlpNetwork& net, const MlpLayout& at, float* f, const Data& data,
                           int slot, long long image) {
  const int lane = threadIdx.x % 32, last = net.layers[net.count - 1].stride, p = net.outputs;
  const float* out = f + at.value[net.count - 1] + slot * last;
  float* pull = f + at.pull + slot * last;
  float* curvature = f + at.curvature + slot * last;
  const float* trial = f + at.trial + slot * at.code_stride;
  double total = 0;
  for (int j = lane; j < last; j += 32) {
    if (j >= p) {
      pull[j] = curvature[j] = 0.0f;
      continue;
    }
    const float w = data.weight_scalar ? data.weight[image] : data.weight[image * p + j];
    const float s = data.scale == nullptr ? 1.0f : data.scale[image * data.scale_stride + j];
    const float r = data.target[image * p + j] - s * out[j];
    total += static_cast<double>(r) * (w * r);
    pull[j] = s * w * r;
    curvature[j] = s * s * w;
  }
  for (int c = lane; c < net.latent; c += 32) total += static_cast<double>(trial[c]) * trial[c];
  return 0.5 * warp_sum(total) + (data.constant == nullptr ? 0.0 : data.constant[image]);
}

// Adds columns [0, width) of the last layer's tangents to the systems of the accepted slots. A warp
// owns an entry of an image's gradient or matrix.
__device__ void accumulate(const MlpNetwork& net, const MlpLayout& at, double* d, const float* f,
                           const float* rows, int row_stride, int column, int width,
                           const int* accepted, int count) {
  const int lane = threadIdx.x % 32, k = net.latent, entries = k + k * (k + 1) / 2;
  const int last = net.layers[net.count - 1].stride;
  for (int item = threadIdx.x / 32; item < count * entries; item += kMlpWarps) {
    const int i = item / entries, entry = item % entries, slot = accepted[i];
    const float* mine = rows + i * k * row_stride;
    float sum = 0;
    if (entry < k) {
      const float* pull = f + at.pull + slot * last + column;
      for (int j = lane; j < width; j += 32) sum += mine[entry * row_stride + j] * pull[j];
    } else {
      int a = 0, b = entry - k;
      while (b > a) b -= ++a;
      const float* curvature = f + at.curvature + slot * last + column;
      for (int j = lane; j < width; j += 32) {
        sum += mine[a * row_stride + j] * curvature[j] * mine[b * row_stride + j];
      }
      for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
      if (lane == 0) {
        double* matrix = d + at.matrix + slot * k * k;
        matrix[a * k + b] += sum;
        if (a != b) matrix[b * k + a] += sum;
      }
      continue;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (lane == 0) d[at.gradient + slot * k + entry] -= sum;
  }
}

// Gradient z - J^T pull and matrix I + J^T diag(curvature) J of the accepted slots.
__device__ void normal_equations(const MlpNetwork& net, const MlpLayout& at, double* d, float* f,
                                 const int* accepted, int count) {
  const int k = net.latent, rows = count * k;
  for (int i = threadIdx.x; i < count * k * k; i += kMlpThreads) {
    const int slot = accepted[i / (k * k)], entry = i % (k * k);
    d[at.matrix + slot * k * k + entry] = entry / k == entry % k ? 1.0 : 0.0;
    if (entry < k) d[at.gradient + slot * k + entry] = f[at.trial + slot * at.code_stride + entry];
  }
  __syncthreads();
  for (int l = 0; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const bool last = l + 1 == net.count;
    const float* input = f + at.tangent[(l + 1) % 2];
    float* output = f + at.tangent[l % 2];
    const float* slope = f + at.slope[l];
    const int input_stride = l == 0 ? 0 : net.layers[l - 1].stride;
    // The last layer goes in pieces that fit, each added to the systems at once.
    const int piece = last ? min(layer.stride, at.tangent_stride) : layer.stride;
    for (int column = 0; column < layer.stride; column += piece) {
      const int width = min(piece, layer.stride - column);
      const auto store = [&](int row, int j, float value) {
        output[row * piece + j - column] = value * slope[accepted[row / k] * layer.stride + j];
      };
      if (l == 0) {
        // The first layer's tangents are the columns of its matrix.
        for (int i = threadIdx.x; i < rows * width; i += kMlpThreads) {
          const int row = i / width, j = column + i % width;
          store(row, j, layer.packed[(j / kMlpPanel * k + row % k) * kMlpPanel + j % kMlpPanel]);
        }
      } else {
        multiply(input, input_stride, layer.packed, layer.inputs, column / kMlpPanel,
                 (column + width) / kMlpPanel, rows, store);
      }
      __syncthreads();
      if (last) {
        accumulate(net, at, d, f, output, piece, column, width, accepted, count);
        __syncthreads();
      }
    }
  }
}

// One warp: takes or refuses the trial of its slot and sets the next, or writes the solution.
__device__ void advance(const MlpNetwork& net, const MlpLayout& at, double* d, float* f, Slot& slot,
                        int index, double objective, const Settings& settings, const Results& out) {
  const int lane = threadIdx.x % 32, k = net.latent;
  const double resolution = 8.0 * 1.1920928955078125e-7;
  const double* matrix = d + at.matrix + index * k * k;
  const double* g = d + at.gradient + index * k;
  double* step = d + at.step + index * k;
  double* factor = d + at.factor + index * k * k;
  float* z = f + at.z + index * at.code_stride;
  float* trial = f + at.trial + index * at.code_stride;
  const long long image = slot.image;
  const double largest = largest_diagonal(matrix, k);
  if (slot.fresh || objective < slot.objective) {
    for (int c = lane; c < k; c += 32) z[c] = trial[c];
  }
  __syncwarp();
  if (lane == 0) {
    if (slot.fresh) {
      slot.fresh = false;
      slot.objective = objective;
      slot.damping = settings.initial_damping * largest;
    } else {
      ++slot.steps;
      if (objective < slot.objective) {
        const double gain = 2 * (slot.objective - objective) / slot.promised - 1;
        slot.damping *= fmin(fmax(1 - gain * gain * gain, 1.0 / 3), 2.0);
        slot.growth = 2;
        slot.objective = objective;
      } else {
        slot.damping *= slot.growth;
        slot.growth *= 2;
      }
    }
  }
  __syncwarp();
  bool finite = isfinite(slot.objective) && solve(matrix, 0, g, k, factor, step);
  double decrement = 0, squared = 0;
  for (int c = lane; finite && c < k; c += 32) {
    decrement += g[c] * step[c];
    squared += step[c] * step[c];
  }
  decrement = warp_sum(decrement);
  squared = warp_sum(squared);
  finite = finite && isfinite(squared);
  const bool done =
      sqrt(squared / k) <= settings.tolerance || decrement <= resolution * fabs(slot.objective);
  const bool stuck = slot.damping > largest / resolution;
  bool stop = !finite || done || stuck || slot.steps >= settings.max_steps;
  __syncwarp();
  if (!stop) stop = !solve(matrix, slot.damping, g, k, factor, step);
  if (stop) {
    for (int c = lane; c < k; c += 32) out.z[image * k + c] = z[c];
    __syncwarp();
    if (lane == 0) {
      out.objective[image] = slot.objective;
      out.steps[image] = slot.steps;
      out.converged[image] = finite && (done || stuck);
      slot.image = -1;
    }
    return;
  }
  double promised = 0;
  for (int c = lane; c < k; c += 32) {
    promised += 0.5 * step[c] * (slot.damping * step[c] + g[c]);
    trial[c] = static_cast<float>(z[c] - step[c]);
  }
  promised = warp_sum(promised);
  if (lane == 0) slot.promised = promised;
}

__device__ void write_system(const MlpNetwork& net, const MlpLayout& at, const double* d,
                             const float* f, Slot& slot, int index, double objective,
                             const Results& out) {
  const int lane = threadIdx.x % 32, k = net.latent, last = net.layers[net.count - 1].stride;
  const long long image = slot.image;
  for (int i = lane; i < k * k; i += 32) {
    out.matrix[image * k * k + i] = d[at.matrix + index * k * k + i];
  }
  for (int i = lane; i < k; i += 32) out.gradient[image * k + i] = d[at.gradient + index * k + i];
  for (int j = lane; j < net.outputs; j += 32) {
    out.output[image * net.outputs + j] = f[at.value[net.count - 1] + index * last + j];
  }
  __syncwarp();
  if (lane == 0) {
    out.objective[image] = objective;
    slot.image = -1;
  }
}

__global__ void __launch_bounds__(kMlpThreads, 1)
    solve_kernel(const __grid_constant__ MlpNetwork net, const Data data, const Settings settings,
                 const Results out, int images, unsigned long long* queue) {
  extern __shared__ double memory[];
  __shared__ Slot slots[kMlpImages];
  __shared__ double objectives[kMlpImages];
  __shared__ int accepted[kMlpImages];
  __shared__ int count;
  const MlpLayout at(net, images);
  double* d = memory;
  float* f = reinterpret_cast<float*>(memory + at.doubles);
  const int warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < at.floats; i += kMlpThreads) f[i] = 0.0f;
  if (threadIdx.x < images) slots[threadIdx.x].image = -1;
  __syncthreads();
  for (;;) {
    if (threadIdx.x < images && slots[threadIdx.x].image < 0) {
      const unsigned long long next = atomicAdd(queue, 1ull);
      if (next < data.batch) {
        Slot& slot = slots[threadIdx.x];
        slot.image = next;
        slot.steps = 0;
        slot.fresh = true;
        slot.growth = 2;
        for (int c = 0; c < net.latent; ++c) {
          f[at.trial + threadIdx.x * at.code_stride + c] = data.start[next * net.latent + c];
        }
      }
    }
    __syncthreads();
    bool any = false;
    for (int i = 0; i < images; ++i) any |= slots[i].image >= 0;
    if (!any) return;
    forward(net, at, f, images);
    if (warp < images && slots[warp].image >= 0) {
      const double value = residual(net, at, f, data, warp, slots[warp].image);
      if (threadIdx.x % 32 == 0) objectives[warp] = value;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      count = 0;
      for (int i = 0; i < images; ++i) {
        if (slots[i].image >= 0 && (slots[i].fresh || objectives[i] < slots[i].objective)) {
          accepted[count++] = i;
        }
      }
    }
    __syncthreads();
    if (count > 0) normal_equations(net, at, d, f, accepted, count);
    __syncthreads();
    if (warp < images && slots[warp].image >= 0) {
      if (settings.evaluate) {
        write_system(net, at, d, f, slots[warp], warp, objectives[warp], out);
      } else {
        advance(net, at, d, f, slots[warp], warp, objectives[warp], settings, out);
      }
    }
    __syncthreads();
  }
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  STD_TORCH_CHECK(cudaDeviceGetAttribute(&value, which, device) == cudaSuccess,
                  "jpmap: cannot read a device attribute");
  return value;
}

void launch(const char* op, const Tensor& z, const Tensors& packed, const Tensors& biases,
            const Integers& activations, const MlpSizes& sizes, const Tensor& target,
            const Tensor& weight, const std::optional<Tensor>& scale,
            const std::optional<Tensor>& constant, const Settings& settings, const Results& out) {
  STD_TORCH_CHECK(z.scalar_type() == torch::headeronly::ScalarType::Float, op,
                  ": expected float32 on CUDA");
  if (sizes.batch == 0) return;
  MlpNetwork net{};
  net.count = static_cast<int>(packed.size());
  net.latent = static_cast<int>(sizes.latent);
  net.outputs = static_cast<int>(sizes.outputs);
  for (int l = 0; l < net.count; ++l) {
    net.layers[l] = {read<float>(packed[l]), read<float>(biases[l]),
                     static_cast<int>(packed[l].size(1)), static_cast<int>(biases[l].size(0)),
                     static_cast<Activation>(activations[l])};
  }
  const int device = z.get_device();
  const int processors = attribute(cudaDevAttrMultiProcessorCount, device);
  const int room = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) - 1024;
  int images = 1;
  while (images < kMlpImages && images * processors < sizes.batch &&
         MlpLayout(net, 2 * images).bytes() <= room) {
    images *= 2;
  }
  const int64_t bytes = MlpLayout(net, images).bytes();
  STD_TORCH_CHECK(bytes <= room, op, ": an image needs ", bytes, " bytes of shared memory, the ",
                  "device has ", room);
  const int64_t scale_stride = scale && scale->dim() == 2 ? sizes.outputs : 0;
  const Data data{read<float>(z),
                  read<float>(target),
                  read<float>(weight),
                  scale ? read<float>(*scale) : nullptr,
                  constant ? read<double>(*constant) : nullptr,
                  sizes.batch,
                  scale_stride,
                  weight.size(1) == 1};
  const cudaStream_t stream = current_stream(z);
  Tensor queue = torch::stable::new_empty(z, {1}, torch::headeronly::ScalarType::Long);
  STD_TORCH_CHECK(cudaMemsetAsync(queue.data_ptr(), 0, 8, stream) == cudaSuccess, op,
                  ": cannot clear the queue");
  STD_TORCH_CHECK(cudaFuncSetAttribute(solve_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(bytes)) == cudaSuccess,
                  op, ": cannot reserve shared memory");
  const int64_t tiles = (sizes.batch + images - 1) / images;
  const auto blocks = static_cast<unsigned int>(std::min<int64_t>(tiles, processors));
  solve_kernel<<<blocks, kMlpThreads, bytes, stream>>>(
      net, data, settings, out, images, static_cast<unsigned long long*>(queue.data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_gauss_newton(Tensor z, Tensors packed,
                                                            Tensors biases, Integers activations,
                                                            Tensor target, Tensor weight,
                                                            std::optional<Tensor> scale,
                                                            std::optional<Tensor> constant) {
  const char* op = "mlp_gauss_newton";
  const auto sizes = check_mlp(op, z, packed, biases, activations, target, weight, scale, constant);
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  const auto wide = torch::headeronly::ScalarType::Double;
  Tensor output = torch::stable::empty_like(target);
  Tensor objective = torch::stable::new_empty(z, {sizes.batch}, wide);
  Tensor gradient = torch::stable::new_empty(z, {sizes.batch, sizes.latent}, wide);
  Tensor matrix = torch::stable::new_empty(z, {sizes.batch, sizes.latent, sizes.latent}, wide);
  Results out{};
  out.objective = write<double>(objective);
  out.output = write<float>(output);
  out.gradient = write<double>(gradient);
  out.matrix = write<double>(matrix);
  launch(op, z, packed, biases, activations, sizes, target, weight, scale, constant,
         {0, 0, 0, true}, out);
  return {output, objective, gradient, matrix};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_restore(Tensor z, Tensors packed, Tensors biases,
                                                       Integers activations, Tensor target,
                                                       Tensor weight, std::optional<Tensor> scale,
                                                       std::optional<Tensor> constant,
                                                       double tolerance, int64_t max_steps,
                                                       double initial_damping) {
  const char* op = "mlp_restore";
  const auto sizes = check_mlp(op, z, packed, biases, activations, target, weight, scale, constant);
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  Tensor found = torch::stable::empty_like(z);
  Tensor objective =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Double);
  Tensor steps = torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Long);
  Tensor converged =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Bool);
  Results out{};
  out.z = write<float>(found);
  out.objective = write<double>(objective);
  out.steps = write<int64_t>(steps);
  out.converged = write<bool>(converged);
  launch(op, z, packed, biases, activations, sizes, target, weight, scale, constant,
         {tolerance, initial_damping, max_steps, false}, out);
  return {found, objective, steps, converged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("mlp_gauss_newton", TORCH_BOX(&mlp_gauss_newton));
  m.impl("mlp_restore", TORCH_BOX(&mlp_restore));
}

}  // namespace jpmap
