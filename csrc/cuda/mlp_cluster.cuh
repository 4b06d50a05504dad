// Whole solves for a few images, each by a cluster of blocks that hold the network's weights.
#pragma once

#include "cuda/mlp_data.cuh"
#include "cuda/mlp_network.cuh"
#include "cuda/mlp_solve.cuh"

namespace jpmap {

// False where the device or the network does not allow it; nothing has been launched then.
bool launch_clusters(const char* op, const MlpNetwork& net, const MlpData& data,
                     const MlpSettings& settings, const MlpResults& out, int room,
                     cudaStream_t stream);

}  // namespace jpmap
