// Gauss-Newton on an MLP decoder, whole solves in one launch (float32). jpmap_fast/solvers/
// gauss_newton.py states the method, csrc/cpu/mlp_restore.cpp is the same loop on a CPU.
//
// A block holds a tile of up to four images in shared memory: codes, activations, the tangents of
// all latent directions, and the k x k systems in double. Weights stream from the L2 cache. A
// finished image makes room for the next one of the queue; a warp owns an image's k x k algebra.
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "cuda/mlp_system.cuh"

namespace jpmap {
namespace {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

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
    solve_kernel(const __grid_constant__ MlpNetwork net, const MlpData data,
                 const Settings settings, const Results out, int images,
                 unsigned long long* queue) {
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
  const MlpData data{read<float>(z),
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
