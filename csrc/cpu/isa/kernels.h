// The kernels that are compiled once for each instruction set, and the choice among them.
#pragma once

#include <cstdint>

#include "mlp_network.h"
#include "student_mixture.h"

namespace jpmap {

template <class T>
struct IsaKernels {
  // out[rows][panel width] = x[rows][depth] panel[depth][panel width]; strides in elements.
  void (*multiply_panel)(const T* x, int64_t x_stride, const T* panel, int64_t depth, int64_t rows,
                         T* out, int64_t out_stride);
  // values[rows][panel width] = f(values + bias[panel width]), rows `stride` elements apart
  void (*activate_panel)(Activation kind, const T* bias, T* values, int64_t rows, int64_t stride);
  // See cpu/isa/mlp.h.
  void (*mlp_misfit)(const Mlp<T>& mlp, const MlpTarget<T>& target, const T* z, int64_t rows,
                     const MlpDraws<T>& room, double* misfit);
  void (*mlp_forward)(const Mlp<T>& mlp, const MlpTarget<T>* targets, int64_t images,
                      MlpTile<T>& tile, double* objective);
  void (*mlp_system)(const Mlp<T>& mlp, const int64_t* which, int64_t images, bool second_order,
                     MlpTile<T>& tile, double* const* gradient, double* const* matrix,
                     double* const* hessian);
};

struct MixtureKernels {
  // See cpu/isa/mixture.h; sums of components that are not used are left alone.
  void (*mixture_density)(const Mixture& m, const double* z, int64_t rows, const MixtureRoom& room,
                          double* out);
  void (*mixture_sums)(const Mixture& m, const double* z, const double* weight, int64_t rows,
                       const MixtureRoom& room, const MixtureSums& out);
};

constexpr int64_t kPanelBytes = 128;
constexpr int64_t kSumLanes = 16;  // sums that a data term is added up in, by an output's number

// The kernels of the best instruction set this processor has.
template <class T>
const IsaKernels<T>& isa_kernels();

const MixtureKernels& mixture_kernels();

// Its name: "avx512", "avx2" or "baseline". Seen outside of the library, by the module for Python.
__attribute__((visibility("default"))) const char* isa_name();

}  // namespace jpmap
