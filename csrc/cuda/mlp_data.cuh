// What a network's output is compared with, and where solves start: of a whole batch.
#pragma once

#include <cstdint>

namespace jpmap {

//   f(z) = 1/2 sum_j w_j (t_j - s_j out_j(z))^2 + 1/2 ||z||^2 + constant
struct MlpData {
  const float* start;      // [B][k]
  const float* target;     // [B][p]
  const float* weight;     // [B][p] or [B][1]
  const float* scale;      // [p] or [B][p], or null
  const double* constant;  // [B], or null
  int64_t batch, scale_stride;
  bool weight_scalar;
};

}  // namespace jpmap
