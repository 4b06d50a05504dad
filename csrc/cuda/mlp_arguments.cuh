// What the CUDA kernels of the fused MLP operators make of their arguments.
#pragma once

#include <vector>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_network.cuh"
#include "mlp_layout.h"

namespace jpmap {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

struct Network {
  const Tensors& rows;          // per layer [stride, in]
  const Tensors& columns;       // per layer [in, stride]
  const Tensors& tangents;      // of all but the first split rows, then split columns; all scales
  const Tensors& biases;        // per layer [stride]
  const Integers& activations;  // per layer
};

inline MlpShape shape_of(const Tensors& rows, int64_t latent) {
  MlpShape shape{latent, static_cast<int>(rows.size()), {}};
  for (int l = 0; l < shape.count; ++l) shape.strides[l] = rows[l].size(0);
  return shape;
}

inline MlpNetwork network_of(const Network& given, const MlpSizes& sizes) {
  MlpNetwork net{};
  net.count = static_cast<int>(given.rows.size());
  net.latent = static_cast<int>(sizes.latent);
  net.outputs = static_cast<int>(sizes.outputs);
  const int split = net.count - 1;
  for (int l = 0; l < net.count; ++l) {
    net.layers[l] = {read<float>(given.rows[l]),
                     read<float>(given.columns[l]),
                     l == 0 ? nullptr : read<__half>(given.tangents[l - 1]),
                     l == 0 ? nullptr : read<__half>(given.tangents[split + l - 1]),
                     read<float>(given.tangents[2 * split + l]),
                     read<float>(given.biases[l]),
                     static_cast<int>(given.rows[l].size(1)),
                     static_cast<int>(given.rows[l].size(0)),
                     static_cast<Activation>(given.activations[l])};
  }
  return net;
}

inline MlpData data_of(const MlpMeasurement& m, const Tensor& z, const MlpSizes& sizes) {
  const int64_t scale_stride = m.scale && m.scale->dim() == 2 ? sizes.outputs : 0;
  return {read<float>(z),
          read<float>(m.target),
          read<float>(m.weight),
          m.scale ? read<float>(*m.scale) : nullptr,
          m.constant ? read<double>(*m.constant) : nullptr,
          m.law ? read<float>(*m.law) : nullptr,
          sizes.batch,
          scale_stride,
          m.weight.size(1) == 1};
}

inline int attribute(const char* op, cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda(op, "read a device attribute", cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Bytes of shared memory that a layout may have.
inline int room_of(const char* op, int device) {
  return attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) - kMlpReserved;
}

}  // namespace jpmap
