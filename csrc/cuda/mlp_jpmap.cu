// The whole method for an MLP prior in one launch: see csrc/README.md. Batches are the work of
// mlp_jpmap_tile.cu, a few images that of the kernel here.
//
// A cluster of sixteen blocks works on one task, an image from one start, at a time, with descents
// as in mlp_cluster.cu. Every block keeps its part of the image, and the task's decisions, which
// jpmap_task.h makes from sums that all blocks have in the same bits. The last start of an image to
// end chooses among the ends; another's is made again from its code, with the same bits.
#include <torch/csrc/stable/library.h>

#include "cuda/cluster_launch.cuh"
#include "cuda/cluster_point.cuh"
#include "cuda/cluster_solve.cuh"
#include "cuda/joint_arguments.cuh"
#include "cuda/joint_ends.cuh"
#include "cuda/mlp_jpmap_tile.cuh"

namespace jpmap {
namespace {

using namespace clusters;

#ifdef JPMAP_HAS_CLUSTERS

__device__ __forceinline__ bool encodes(const JointBlock& joint, int64_t start) {
  return joint.encoder.count > 0 && start == 0;
}

// The task's first state and work.
__device__ __forceinline__ void begin(const JointBlock& joint, const MlpData& data,
                                      const TaskSettings& settings, int64_t image, int64_t start) {
  const JointInput& in = joint.input;
  ClusterTask& task = joint.task;
  const int k = joint.block.net.latent, thread = threadIdx.x;
  load_measurements(joint.block, data, image);
  for (int i = thread; i < joint.at.own; i += kBlockThreads) joint.memory(joint.at.x)[i] = 0.0f;
  if (thread < kCodes) {
    const float* code = in.codes + image * in.codes_stride + start * k;
    task.code[thread] = thread < k ? code[thread] : 0.0f;
    task.z[thread] = 0.0f;
  }
  __syncthreads();  // told
  const bool published = encodes(joint, start);
  weigh(joint, data, image, published);
  take_found(joint, published);
  if (thread == 0) {
    task.work = begin_task(task.task, settings, published, task.found_objective);
  }
  __syncthreads();  // told
}

// A descent from the candidate's code or the state's, to the task's code.
__device__ __forceinline__ void descend_task(const JointBlock& joint, const MlpSettings& settings) {
  ClusterTask& task = joint.task;
  MlpResults out{};
  out.z = task.code;
  out.objective = &task.value;
  out.steps = &task.steps;
  out.converged = &task.converged;
  begin_descent(joint.block, task.task.trying == 2 ? task.code : task.z, 0);
  __syncthreads();  // fetched
  descend(joint.block, settings, out, knows_minimum(task.task) ? task.z : nullptr, true);
}

// What a Newton step at the state promises.
__device__ __forceinline__ void prove(const JointBlock& joint) {
  const ClusterBlock& block = joint.block;
  auto& state = block.state;
  begin_descent(block, joint.task.z, 0);
  __syncthreads();  // fetched
  forward(block);
  backward(block);
  sum_system(block, true);
  if (threadIdx.x < 32) {
    const double promised =
        newton_promise<FourSystems>(state.trial_system().of(block.net.latent), nullptr);
    if (threadIdx.x == 0) proved(joint.task.task, promised);
  }
  __syncthreads();  // told
}

// A task from its first state to its end.
__device__ __forceinline__ void run_task(const JointBlock& joint, const MlpData& data,
                                         const MlpSettings& descent, const TaskSettings& settings,
                                         int64_t image) {
  ClusterTask& task = joint.task;
  for (;;) {
    const TaskWork work = task.work;
    if (work == TaskWork::kEnd) return;
    if (work == TaskWork::kProve) return prove(joint);
    if (work == TaskWork::kEncode) {
      encode(joint);
      if (threadIdx.x == 0) {
        task.converged = false;
        task.work = encoded(task.task, settings);
      }
      __syncthreads();  // told
      continue;
    }
    if (work != TaskWork::kWeigh) descend_task(joint, descent);
    weigh(joint, data, image, false);
    const bool taken = falls(task.found_objective, task.task.objective);
    __syncthreads();  // every thread knows
    if (threadIdx.x == 0) {
      task.work = weighed(task.task, settings, task.found_objective, task.moved, task.converged);
    }
    if (taken) take_found(joint, false);
    __syncthreads();  // told
  }
}

// Whether all starts of the image have ended: then the state is that of the best, otherwise the
// cluster that ends last sees to it. Every thread of the cluster gets the same answer.
__device__ __forceinline__ bool elect(const JointBlock& joint, const MlpData& data,
                                      const JointEnds& ends, int64_t image, int64_t start) {
  ClusterTask& task = joint.task;
  const int64_t starts = joint.input.starts;
  const int k = joint.block.net.latent;
  if (starts == 1) return true;
  if (joint.block.rank == 0 && threadIdx.x == 0) {
    const bool last = note_end(ends, image, start, starts, task.task, task.published, task.z, k);
    for (int to = 0; to < kBlocks; ++to) {
      *joint.block.cluster.map_shared_rank(&task.last, to) = last;
    }
  }
  joint.block.cluster.sync();  // elected
  if (!task.last) return false;
  if (threadIdx.x == 0) {
    bool published;
    task.steps = best_end(ends, image, starts, task.task, published, task.code, k);
    task.published = published;
  }
  __syncthreads();  // told
  if (task.steps == start) return true;
  const bool published = task.published;
  weigh(joint, data, image, published);
  take_found(joint, published);
  __syncthreads();  // told
  return true;
}

__device__ __forceinline__ void write_image(const JointBlock& joint, const JointOutput& out,
                                            int64_t image) {
  const ClusterTask& task = joint.task;
  const int64_t n = joint.input.pixels, k = joint.block.net.latent;
  for (int i = threadIdx.x; i < joint.at.own; i += kBlockThreads) {
    const int64_t j = joint.block.rank * joint.at.own + i;
    if (j >= n) continue;
    out.x[image * n + j] = joint.memory(joint.at.x)[i];
    out.decoded[image * n + j] = joint.memory(joint.at.decoded)[i];
  }
  if (joint.block.rank != 0) return;
  if (threadIdx.x < k) out.z[image * k + threadIdx.x] = task.z[threadIdx.x];
  if (threadIdx.x < 3) out.candidates[image * 3 + threadIdx.x] = task.task.candidates[threadIdx.x];
  if (threadIdx.x == 0) {
    out.objective[image] = task.objective;
    out.gap[image] = task.gap;
    out.status[image] = task.task.status;
    out.iterations[image] = task.task.iterations;
  }
}

#endif

__global__ void __launch_bounds__(kBlockThreads, 1)
    jpmap_kernel(const __grid_constant__ MlpNetwork net, const __grid_constant__ ClusterLayout at,
                 const __grid_constant__ JointLayout joint_at,
                 const __grid_constant__ ForwardNetwork decoder,
                 const __grid_constant__ ForwardNetwork encoder, const MlpData data,
                 const MlpSettings descent, const TaskSettings settings, const JointInput input,
                 const JointOutput out, const JointEnds ends) {
#ifdef JPMAP_HAS_CLUSTERS
  extern __shared__ __align__(128) float memory[];
  __shared__ ClusterState state;
  __shared__ ClusterTask task;
  const float* weights[kMaxLayers];
  const auto cluster = cooperative_groups::this_cluster();
  const ClusterBlock block{
      net, at, memory, state, weights, cluster, static_cast<int>(cluster.block_rank())};
  int turn = 0, pool_turn = 0;
  const JointBlock joint{block, joint_at, input, decoder, encoder, task, turn, pool_turn};
  load_network(block);
  cluster.sync();  // loaded
  const int clusters = gridDim.x / kBlocks;
  for (int64_t next = blockIdx.x / kBlocks; next < input.batch * input.starts; next += clusters) {
    const int64_t image = next / input.starts, start = next % input.starts;
    __syncthreads();  // every thread has written what it had of the task before
    begin(joint, data, settings, image, start);
    run_task(joint, data, descent, settings, image);
    if (elect(joint, data, ends, image, start)) write_image(joint, out, image);
  }
  cluster.sync();  // left
#else
  __trap();  // never launched; were it, no result may look like one
#endif
}

// A launch of the kernel for these networks, and how many of its clusters run at the same time.
struct Room {
  ClusterLayout at;
  JointLayout joint_at;
  ClusterLaunch launch;
  int resident;

  Room(const char* op, const MlpNetwork& net, const ForwardNetwork& decoder,
       const ForwardNetwork& encoder, int room, cudaStream_t stream)
      : at(net, room - 4 * JointLayout(0, net, decoder, encoder).floats),
        joint_at(at.floats, net, decoder, encoder),
        launch(4 * joint_at.floats, stream),
        resident(4 * joint_at.floats > room ? 0 : launch.resident(op, jpmap_kernel, room)) {}
};

// With a single layer nothing would keep a step's exchange apart from the next one's.
bool suits_clusters(const MlpNetwork& net) { return net.latent <= kCodes && net.count >= 2; }

int64_t mlp_jpmap_clusters(Tensor y, Tensors weights, Tensors adjoints, Tensors tangents,
                           Tensors biases, Integers activations, Tensor target, Tensor weight,
                           Tensors decoder_weights, Tensors decoder_biases,
                           Integers decoder_activations, Tensors encoder_weights,
                           Tensors encoder_biases, Integers encoder_activations, int64_t latent) {
  constexpr const char* op = "mlp_jpmap_clusters";
  const torch::stable::accelerator::DeviceGuard guard(y.get_device());
  const std::optional<Tensor> none;
  const Tensor z = torch::stable::new_empty(y, {y.size(0), latent});
  const auto sizes = check_mlp_rows(op, z, weights, adjoints, tangents, biases, activations,
                                    {target, weight, none, none, none});
  const MlpNetwork net = network_of({weights, adjoints, tangents, biases, activations}, sizes);
  if (!suits_clusters(net)) return 0;
  const auto decoder =
      forward_of(op, "decoder", {decoder_weights, decoder_biases, decoder_activations}, y, latent,
                 y.size(1), true);
  const auto encoder =
      forward_of(op, "encoder", {encoder_weights, encoder_biases, encoder_activations}, y,
                 padded_pixels(op, decoder), latent, false);
  return Room(op, net, decoder, encoder, room_of(op, y.get_device()), current_stream(y)).resident;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_jpmap(
    Tensor y, std::optional<Tensor> mask, std::optional<Tensor> values, std::optional<Tensor> lost,
    Tensor beta, Tensor sigma, Tensor starts, Tensors weights, Tensors adjoints, Tensors tangents,
    Tensors biases, Integers activations, Tensor target, Tensor weight, std::optional<Tensor> scale,
    std::optional<Tensor> constant, Tensors decoder_weights, Tensors decoder_biases,
    Integers decoder_activations, Tensors encoder_weights, Tensors encoder_biases,
    Integers encoder_activations, double tolerance, int64_t max_steps, double initial_damping,
    bool second_order, int64_t n1, int64_t n2, int64_t max_iterations, double move, bool again,
    bool low_latency) {
  constexpr const char* op = "mlp_jpmap";
  STD_TORCH_CHECK(y.scalar_type() == torch::headeronly::ScalarType::Float, op,
                  ": expected float32 on CUDA");
  const JointMeasurement given{y, mask, values, lost, beta, sigma, starts};
  const JointSizes sizes = check_joint(op, given, target.dim() == 2 ? target.size(1) : 0);
  const TaskSettings settings =
      check_task(op, n1, n2, max_iterations, move, again, !encoder_weights.empty(), sizes.starts);
  STD_TORCH_CHECK(!lost.has_value() || constant.has_value(), op,
                  ": expected what is lost to be in the constant as well");
  const torch::stable::accelerator::DeviceGuard guard(y.get_device());
  Tensor z = torch::stable::new_empty(y, {sizes.batch, sizes.latent});
  const std::optional<Tensor> no_law;
  const MlpMeasurement measurement{target, weight, scale, constant, no_law};
  const auto mlp =
      check_mlp_rows(op, z, weights, adjoints, tangents, biases, activations, measurement);
  const MlpNetwork net = network_of({weights, adjoints, tangents, biases, activations}, mlp);
  const auto decoder =
      forward_of(op, "decoder", {decoder_weights, decoder_biases, decoder_activations}, y,
                 sizes.latent, sizes.pixels, true);
  const int64_t pixels = padded_pixels(op, decoder);
  const auto encoder =
      forward_of(op, "encoder", {encoder_weights, encoder_biases, encoder_activations}, y, pixels,
                 sizes.latent, false);
  STD_TORCH_CHECK(!values || (net.layers[net.count - 1].inputs == pixels && !scale), op,
                  ": expected a last layer that measures the image, without a scale");
  Tensor x = torch::stable::empty_like(y), decoded = torch::stable::empty_like(y);
  Tensor objective = torch::stable::empty_like(beta), gap = torch::stable::empty_like(beta);
  const auto whole = torch::headeronly::ScalarType::Long;
  Tensor status = torch::stable::new_empty(y, {sizes.batch}, whole);
  Tensor iterations = torch::stable::new_empty(y, {sizes.batch}, whole);
  Tensor candidates = torch::stable::new_empty(y, {sizes.batch, 3}, whole);
  const auto results = [&] {
    return std::tuple{x, z, decoded, objective, gap, status, iterations, candidates};
  };
  if (sizes.batch == 0) return results();
  const cudaStream_t stream = current_stream(y);
  const int room = room_of(op, y.get_device());
  const int64_t tasks = sizes.batch * sizes.starts;
  // Of an image with one start nobody asks how it has ended.
  const int64_t noted = sizes.starts > 1 ? tasks : 0;
  static_assert(sizeof(JointRecord) % 8 == 0);
  Tensor records =
      torch::stable::new_empty(y, {noted * static_cast<int64_t>(sizeof(JointRecord) / 8)}, whole);
  Tensor codes = torch::stable::new_empty(y, {noted * sizes.latent});
  // The queue, and how many starts of each image have ended.
  Tensor counters = torch::stable::new_empty(y, {1 + (sizes.batch + 1) / 2}, whole);
  auto* queue = static_cast<unsigned long long*>(counters.data_ptr());
  check_cuda(op, "clear the counters",
             cudaMemsetAsync(queue, 0, sizeof(int64_t) * counters.numel(), stream));
  const auto pointer = [](const std::optional<Tensor>& tensor) {
    return tensor ? read<float>(*tensor) : nullptr;
  };
  const JointInput input{read<float>(y),
                         pointer(mask),
                         pointer(values),
                         read<float>(beta),
                         read<float>(sigma),
                         read<float>(starts),
                         sizes.batch,
                         sizes.starts,
                         sizes.mask_each ? sizes.pixels : 0,
                         sizes.values_each ? target.size(1) : 0,
                         sizes.starts_each ? sizes.starts * sizes.latent : 0,
                         static_cast<int>(sizes.pixels)};
  const JointOutput out{write<float>(x),
                        write<float>(z),
                        write<float>(decoded),
                        write<float>(objective),
                        write<float>(gap),
                        write<int64_t>(status),
                        write<int64_t>(iterations),
                        write<int64_t>(candidates)};
  const JointEnds ends{static_cast<JointRecord*>(records.data_ptr()), write<float>(codes),
                       reinterpret_cast<unsigned*>(queue + 1)};
  const MlpSettings descent{tolerance, initial_damping, max_steps, second_order,
                            false,     nullptr,         nullptr};
  const MlpData data = data_of(measurement, z, mlp);
  if (low_latency && suits_clusters(net)) {
    Room place(op, net, decoder, encoder, room, stream);
    if (place.resident > 0) {
      place.launch.run(op, jpmap_kernel, std::min<int64_t>(place.resident, tasks), net, place.at,
                       place.joint_at, decoder, encoder, data, descent, settings, input, out, ends);
      return results();
    }
  }
  launch_tiles(op, net, data, descent, settings, decoder, encoder, input, out, ends, queue, y, room,
               stream);
  return results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CUDA, m) {
  m.impl("mlp_jpmap", TORCH_BOX(&mlp_jpmap));
  m.impl("mlp_jpmap_clusters", TORCH_BOX(&mlp_jpmap_clusters));
}

}  // namespace jpmap
