// The kernels that are compiled once for each instruction set, and the choice among them.
#pragma once

#include <cstdint>

#include "mlp_network.h"
#include "student_mixture.h"

namespace jpmap {

// See cpu/isa/curvature.h.
template <class T>
using MlpCurvature = void (*)(const Mlp<T>& mlp, const int64_t* which, int64_t images,
                              bool second_order, MlpTile<T>& tile, double* const* matrix,
                              double* const* hessian);

template <class T>
struct IsaKernels {
  // out[rows][panels w] = x[rows][depth] packed[panels][depth][w]; strides in elements.
  void (*multiply_panels)(const T* x, int64_t x_stride, const T* packed, int64_t depth,
                          int64_t rows, int64_t panels, T* out, int64_t out_stride);
  // values[rows][panel width] = f(values + bias[panel width]), rows `stride` elements apart
  void (*activate_panel)(Activation kind, const T* bias, T* values, int64_t rows, int64_t stride);
  // See cpu/isa/mlp.h.
  void (*mlp_misfit)(const Mlp<T>& mlp, const MlpTarget<T>& target, const T* z, int64_t rows,
                     const MlpDraws<T>& room, double* misfit);
  void (*mlp_forward)(const Mlp<T>& mlp, const MlpTarget<T>* targets, int64_t images,
                      MlpTile<T>& tile, double* objective);
  void (*mlp_backward)(const Mlp<T>& mlp, const int64_t* which, int64_t images, MlpTile<T>& tile,
                       double* const* gradient);
  MlpCurvature<T> mlp_curvature;
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

// mlp_curvature with tangents in bfloat16, for networks that have these weights; null where the
// processor has no such products, and for double.
template <class T>
MlpCurvature<T> bfloat16_curvature();

// Its name: "avx512bf16", "avx512", "avx2", "neon" or "baseline". This and what follows is seen
// outside of the library, by the module for Python.
__attribute__((visibility("default"))) const char* isa_name();

// Whether weights in bfloat16 are of use to it.
__attribute__((visibility("default"))) bool takes_bfloat16();

}  // namespace jpmap
