// The whole method for an MLP prior in one launch, for batches: see csrc/README.md.
//
// A block holds a tile of tasks, images from one start each, and takes further ones from a queue.
// In a turn all of them pass through the descents' network at their trial codes; those that weigh
// get x and J1 and go on, those that descend take a step as in mlp_restore.cu. Slots are at
// different works of their tasks: nobody waits but for the encoder, which many ask together, and
// who does makes room for others. The last start of an image to end chooses among the ends;
// another's is made again from its code, with the same bits. No bit of a task depends on the slots
// beside it.
#include "cuda/mlp_arguments.cuh"
#include "cuda/mlp_backward.cuh"
#include "cuda/mlp_curvature.cuh"
#include "cuda/mlp_jpmap_tile.cuh"
#include "cuda/mlp_tile_launch.cuh"
#include "cuda/tile_ring.cuh"
#include "cuda/tile_task.cuh"

namespace jpmap {
namespace {

__global__ void __launch_bounds__(kMlpThreads, 1) tile_kernel(const __grid_constant__ TileRun run) {
  extern __shared__ __align__(128) char memory[];
  __shared__ TileShared own;
  const TileJoint joint(run, memory, own);
  const MlpTileView& tile = joint.block.tile;
  for (int i = threadIdx.x; i < run.at.bytes / 4; i += kMlpThreads) {
    reinterpret_cast<float*>(memory)[i] = 0.0f;
  }
  if (threadIdx.x < kMlpImages) own.images[threadIdx.x] = own.descending[threadIdx.x] = -1;
  if (threadIdx.x == 0) own.turn = TileTurn{};
  __syncthreads();  // cleared
  if (threadIdx.x < run.at.images) {
    const int mine = threadIdx.x;
    joint.tasks[mine].points[0] = mine;
    joint.tasks[mine].points[1] = run.at.images + mine;
    if (mine < run.at.ring) joint.place(mine).task.points[0] = 2 * run.at.images + mine;
  }
  __syncwarp();
  for (;;) {
    const bool works = fill_tasks(joint);
    if (!__syncthreads_or(works)) return;  // filled
    if (own.turn.encoders > 0) encode(joint);
    forward(tile, run.data, own.images);
    if (own.turn.weighers > 0) weigh(joint);
    choose_trials(joint);
    __syncthreads();  // chosen
    if (own.count > 0) {
      backward(tile, own.accepted, own.count);
      second_derivatives(tile, own.accepted, own.count,
                         run.descent.second_order || own.turn.proves);
    }
    if (run.net.latent <= FourSystems::kMost) {
      advance_tasks<FourSystems>(joint);
    } else {
      advance_tasks<OneSystem>(joint);
    }
    __syncthreads();  // advanced
  }
}

MlpShape shape_of(const MlpNetwork& net) {
  MlpShape shape{net.latent, net.count, {}};
  for (int l = 0; l < net.count; ++l) shape.strides[l] = net.layers[l].stride;
  return shape;
}

MlpShape shape_of(const ForwardNetwork& net, int latent) {
  MlpShape shape{latent, net.count, {}};
  for (int l = 0; l < net.count; ++l) shape.strides[l] = net.layers[l].stride;
  return shape;
}

// How many of the decoder's first layers are those of the descents' network.
int common_layers(const MlpNetwork& net, const ForwardNetwork& decoder) {
  int l = 0;
  for (; l < std::min(net.count, decoder.count); ++l) {
    const auto& one = net.layers[l];
    const auto& other = decoder.layers[l];
    const bool same = one.rows == other.rows && one.bias == other.bias &&
                      one.stride == other.stride && one.activation == other.activation;
    if (!same) break;
  }
  return l;
}

}  // namespace

void launch_tiles(const char* op, const MlpNetwork& net, const MlpData& data,
                  const MlpSettings& descent, const TaskSettings& settings,
                  const ForwardNetwork& decoder, const ForwardNetwork& encoder,
                  const JointInput& input, const JointOutput& out, const JointEnds& ends,
                  unsigned long long* queue, const Tensor& like, int room, cudaStream_t stream) {
  const int processors = attribute(op, cudaDevAttrMultiProcessorCount, like.get_device());
  const int64_t tasks = input.batch * input.starts;
  const MlpShape own = shape_of(net), whole = shape_of(decoder, net.latent),
                 asked = shape_of(encoder, net.latent);
  const MlpTaskLayout at = tile_for(op, tasks, processors, room, [&](int images, int rows) {
    return MlpTaskLayout(own, whole, asked, images, rows);
  });
  const int64_t blocks = std::min<int64_t>((tasks + at.images - 1) / at.images, processors);
  Tensor workspace = torch::stable::new_empty(like, {blocks * at.block});
  const TileRun run{net,
                    at,
                    data,
                    descent,
                    settings,
                    decoder,
                    encoder,
                    common_layers(net, decoder),
                    input,
                    out,
                    ends,
                    queue,
                    write<float>(workspace)};
  allow_shared_memory(op, tile_kernel, room);
  tile_kernel<<<static_cast<unsigned int>(blocks), kMlpThreads, at.bytes, stream>>>(run);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace jpmap
