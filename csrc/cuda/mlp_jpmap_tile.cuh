// The whole method for batches: tiles of tasks, a block each.
#pragma once

#include "arguments.h"
#include "cuda/joint_ends.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_network.cuh"
#include "cuda/mlp_solve.cuh"
#include "mlp_task_layout.h"

namespace jpmap {

// Runs all tasks. `queue` is zero, and so are the starts that have ended.
void launch_tiles(const char* op, const MlpNetwork& net, const MlpData& data,
                  const MlpSettings& descent, const TaskSettings& settings,
                  const ForwardNetwork& decoder, const ForwardNetwork& encoder,
                  const JointInput& input, const JointOutput& out, const JointEnds& ends,
                  unsigned long long* queue, const Tensor& like, int room, cudaStream_t stream);

}  // namespace jpmap
