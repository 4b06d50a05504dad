// What the CPU's code and CUDA's share.
#pragma once

#ifdef __CUDACC__
#define JPMAP_SHARED __host__ __device__ inline
#else
#define JPMAP_SHARED inline
#endif
