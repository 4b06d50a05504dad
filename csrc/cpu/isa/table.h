// Defines this instruction set's tables; included last by each file of this folder.
#include "cpu/isa/curvature.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/mixture.h"
#include "cpu/isa/mlp.h"

namespace jpmap {
namespace JPMAP_ISA {
extern const IsaKernels<float> kFloatKernels;
extern const IsaKernels<double> kDoubleKernels;
extern const MixtureKernels kMixtureKernels;
const IsaKernels<float> kFloatKernels = {multiply_panels<float>, activate_panel<float>,
                                         mlp_misfit<float>,      mlp_forward<float>,
                                         mlp_backward<float>,    mlp_curvature<float, Tangents>};
const IsaKernels<double> kDoubleKernels = {
    multiply_panels<double>, activate_panel<double>, mlp_misfit<double>,
    mlp_forward<double>,     mlp_backward<double>,   mlp_curvature<double, Tangents>};
const MixtureKernels kMixtureKernels = {mixture_density, mixture_sums};
}  // namespace JPMAP_ISA
}  // namespace jpmap
