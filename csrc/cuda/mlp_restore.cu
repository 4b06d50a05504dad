// Gauss-Newton on an MLP decoder: one evaluation (mlp_gauss_newton) and whole solves (mlp_restore).
//
// One launch serves a batch. A block holds a tile of images and takes further ones from a queue:
// all trial codes pass through the network together, those whose objective fell get gradient and
// second derivatives, and a warp an image takes or refuses the trial and sets the next.
// jpmap_fast/solvers/gauss_newton.py states the method.
#include <torch/csrc/stable/library.h>

#include "cuda/mlp_arguments.cuh"
#include "cuda/mlp_backward.cuh"
#include "cuda/mlp_block.cuh"
#include "cuda/mlp_cluster.cuh"
#include "cuda/mlp_curvature.cuh"
#include "cuda/mlp_forward.cuh"
#include "cuda/mlp_tile_launch.cuh"

namespace jpmap {
namespace {

__global__ void __launch_bounds__(kMlpThreads, 1)
    solve_kernel(const __grid_constant__ MlpNetwork net, const __grid_constant__ MlpLayout at,
                 const MlpData data, const MlpSettings settings, const MlpResults out,
                 unsigned long long* queue, float* workspace) {
  extern __shared__ __align__(128) char memory[];
  __shared__ MlpSlot slots[kMlpImages];
  __shared__ long long images[kMlpImages];
  __shared__ int accepted[kMlpImages];
  __shared__ float factors[kMlpImages];
  __shared__ double misfits[kMlpImages];
  __shared__ int count;
  float* staged = reinterpret_cast<float*>(memory + at.area[0] + at.area[1]);
  float* codes = staged + at.staged;
  const MlpBlock block{
      {net, at, memory, staged, codes, codes + at.codes,
       workspace + static_cast<int64_t>(blockIdx.x) * at.images * at.slot, factors, misfits},
      slots,
      images,
      codes + 2 * at.codes,
      accepted,
      &count};
  for (int i = threadIdx.x; i < at.bytes / 4; i += kMlpThreads) {
    reinterpret_cast<float*>(memory)[i] = 0.0f;
  }
  if (threadIdx.x < kMlpImages) images[threadIdx.x] = -1;
  __syncthreads();  // cleared
  for (;;) {
    const bool active = fill(block, data, settings, out, queue);
    if (!__syncthreads_or(active)) return;  // filled
    forward(block.tile, data, images);
    choose(block, data, images);
    __syncthreads();  // chosen
    if (count > 0) {
      backward(block.tile, accepted, count);
      second_derivatives(block.tile, accepted, count, settings.second_order);
    }
    if (settings.evaluate) {
      write_systems(block, out);
    } else if (net.latent <= FourSystems::kMost) {
      advance_all<FourSystems>(block, settings, out);
    } else {
      advance_all<OneSystem>(block, settings, out);
    }
    __syncthreads();  // advanced
  }
}

void launch(const char* op, const Tensor& z, const Tensors& rows, const Tensors& columns,
            const Tensors& half, const Tensors& biases, const Integers& activations,
            const MlpSizes& sizes, const MlpMeasurement& measurement, const MlpSettings& settings,
            const MlpResults& out, bool low_latency) {
  STD_TORCH_CHECK(z.scalar_type() == torch::headeronly::ScalarType::Float, op,
                  ": expected float32 on CUDA");
  if (sizes.batch == 0) return;
  const int device = z.get_device();
  const int processors = attribute(op, cudaDevAttrMultiProcessorCount, device);
  const int room = room_of(op, device);
  const MlpShape shape = shape_of(rows, sizes.latent);
  // Here already: what fits has sizes far below the 32 bits that kernels count them in.
  const MlpLayout at = tile_for(op, sizes.batch, processors, room, [&](int images, int tangents) {
    return MlpLayout(shape, images, tangents);
  });
  const MlpNetwork net = network_of({rows, columns, half, biases, activations}, sizes);
  const MlpData data = data_of(measurement, z, sizes);
  const cudaStream_t stream = current_stream(z);
  if (low_latency && launch_clusters(op, net, data, settings, out, room, stream)) return;
  const int64_t tiles = (sizes.batch + at.images - 1) / at.images;
  const int64_t blocks = std::min<int64_t>(tiles, processors);
  Tensor queue = torch::stable::new_empty(z, {1}, torch::headeronly::ScalarType::Long);
  Tensor workspace = torch::stable::new_empty(z, {blocks * at.images * at.slot});
  check_cuda(op, "clear the queue", cudaMemsetAsync(queue.data_ptr(), 0, 8, stream));
  allow_shared_memory(op, solve_kernel, room);
  solve_kernel<<<static_cast<unsigned int>(blocks), kMlpThreads, at.bytes, stream>>>(
      net, at, data, settings, out, static_cast<unsigned long long*>(queue.data_ptr()),
      write<float>(workspace));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_gauss_newton(
    Tensor z, Tensors weights, Tensors adjoints, Tensors tangents, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law) {
  const char* op = "mlp_gauss_newton";
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes =
      check_mlp_rows(op, z, weights, adjoints, tangents, biases, activations, measurement);
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  const auto wide = torch::headeronly::ScalarType::Double;
  Tensor output = torch::stable::empty_like(target);
  Tensor objective = torch::stable::new_empty(z, {sizes.batch}, wide);
  Tensor gradient = torch::stable::new_empty(z, {sizes.batch, sizes.latent}, wide);
  Tensor matrix = torch::stable::new_empty(z, {sizes.batch, sizes.latent, sizes.latent}, wide);
  Tensor hessian = torch::stable::empty_like(matrix);
  MlpResults out{};
  out.objective = write<double>(objective);
  out.output = write<float>(output);
  out.gradient = write<double>(gradient);
  out.matrix = write<double>(matrix);
  out.hessian = write<double>(hessian);
  launch(op, z, weights, adjoints, tangents, biases, activations, sizes, measurement,
         {0, 0, 0, true, true, nullptr, nullptr}, out, false);
  return {output, objective, gradient, matrix, hessian};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mlp_restore(
    Tensor z, Tensors weights, Tensors adjoints, Tensors tangents, Tensors biases,
    Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, std::optional<Tensor> law, double tolerance, int64_t max_steps,
    double initial_damping, bool second_order, std::optional<Tensor> active,
    std::optional<Tensor> known, bool low_latency) {
  const char* op = "mlp_restore";
  const MlpMeasurement measurement{target, weight, scale, constant, law};
  const auto sizes =
      check_mlp_rows(op, z, weights, adjoints, tangents, biases, activations, measurement);
  const torch::stable::accelerator::DeviceGuard guard(z.get_device());
  Tensor found = torch::stable::empty_like(z);
  Tensor objective =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Double);
  Tensor steps = torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Long);
  Tensor converged =
      torch::stable::new_empty(z, {sizes.batch}, torch::headeronly::ScalarType::Bool);
  MlpResults out{};
  out.z = write<float>(found);
  out.objective = write<double>(objective);
  out.steps = write<int64_t>(steps);
  out.converged = write<bool>(converged);
  check_known(op, known, z);
  launch(op, z, weights, adjoints, tangents, biases, activations, sizes, measurement,
         {tolerance, initial_damping, max_steps, second_order, false, check_active(op, active, z),
          known.has_value() ? read<float>(*known) : nullptr},
         out, low_latency);
  return {found, objective, steps, converged};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("mlp_gauss_newton", TORCH_BOX(&mlp_gauss_newton));
  m.impl("mlp_restore", TORCH_BOX(&mlp_restore));
}

}  // namespace jpmap
