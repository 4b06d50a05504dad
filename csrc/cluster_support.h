// Which compiled code of the cluster kernel does something.
#pragma once

#include <algorithm>

// Clusters begin with compute capability 9.0, and so do the kernel's body and its parts. The
// compiler's pass over host code sees them too.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define JPMAP_HAS_CLUSTERS
#endif

namespace jpmap {

// Code built for an older target also runs on newer devices, translated from its PTX: empty as it
// was compiled. `ptx` and `binary` are those of cudaFuncAttributes: 80 and 90 for such a
// translation on a device of 9.0.
inline bool holds_clusters(int ptx, int binary) { return std::min(ptx, binary) >= 90; }

}  // namespace jpmap
