// What damped_solve takes, and what a block of its CUDA kernel holds.
#pragma once

#include <cstdint>

namespace jpmap {

constexpr int64_t kMaxDampedSystem = 128;

// Bytes of shared memory for k unknowns: the lower triangle in double, row after row, and two
// vectors. The largest system takes 68 kB, which every device of compute capability 8.0 and up has.
inline int64_t damped_shared_memory(int64_t k) { return 8 * (k * (k + 1) / 2 + 2 * k); }

}  // namespace jpmap
