// jpmap_fast._C_cuda: importing it loads libjpmap_fast_cuda, which registers the CUDA kernels.
// Apart from _C, so that a build with CUDA still runs where torch has none.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C_cuda, m) { m.doc() = "CUDA kernels of jpmap_fast"; }
