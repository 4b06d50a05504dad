// What mlp_jpmap works on and writes, of a whole batch; jpmap_arguments.h says what is what.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "jpmap_task.h"
#include "mlp_network.h"

namespace jpmap {

struct ForwardLayer {
  const float* rows;    // W [stride][inputs]
  const __half* split;  // and scale: split_rows of MlpNetwork; none of a layer that takes codes
  const float* scale;
  const float* bias;  // [stride]
  int inputs, stride;
  Activation activation;
};

struct ForwardNetwork {
  ForwardLayer layers[kMaxLayers];
  int count;  // 0 where nobody asks it
};

struct JointInput {
  const float* y;                                                   // [B][n]
  const float* mask;                                                // [n] or [B][n], or null
  const float* values;                                              // [p] or [B][p], or null
  const float* beta;                                                // [B]
  const float* sigma;                                               // [B]
  const float* codes;                                               // [K][k] or [B][K][k]
  int64_t batch, starts, mask_stride, values_stride, codes_stride;  // from image to image
  int pixels;
};

struct JointOutput {
  float *x, *z, *decoded, *objective, *gap;
  int64_t *status, *iterations, *candidates;
};

}  // namespace jpmap
