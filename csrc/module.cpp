// jpmap_fast._C: importing it registers every schema and the CPU kernels.
#include <pybind11/pybind11.h>

#include "cpu/isa/kernels.h"

#ifndef JPMAP_TORCH_VERSION
#define JPMAP_TORCH_VERSION "unknown"
#endif
#ifndef JPMAP_CUDA_VERSION
#define JPMAP_CUDA_VERSION ""
#endif
#ifndef JPMAP_CUDA_ARCHITECTURES
#define JPMAP_CUDA_ARCHITECTURES ""
#endif

PYBIND11_MODULE(_C, m) {
  m.def("build_info", [] {
    pybind11::dict info;
    info["cuda"] = JPMAP_CUDA_VERSION[0] != '\0';
    info["cuda_version"] = JPMAP_CUDA_VERSION;
    info["cuda_architectures"] = JPMAP_CUDA_ARCHITECTURES;
    info["torch"] = JPMAP_TORCH_VERSION;
    info["cpu_kernels"] = jpmap::isa_name();
    info["compiler"] = __VERSION__;
    return info;
  });
}
