// Defines this instruction set's tables; included last by each file of this folder.
#include "cpu/isa/kernels.h"
#include "cpu/isa/mixture.h"
#include "cpu/isa/mlp.h"

namespace jpmap {
namespace JPMAP_ISA {
extern const IsaKernels<float> kFloatKernels;
extern const IsaKernels<double> kDoubleKernels;
extern const MixtureKernels kMixtureKernels;
const IsaKernels<float> kFloatKernels = {multiply_panel<float>, activate_panel<float>,
                                         mlp_misfit<float>, mlp_forward<float>, mlp_system<float>};
const IsaKernels<double> kDoubleKernels = {multiply_panel<double>, activate_panel<double>,
                                           mlp_misfit<double>, mlp_forward<double>,
                                           mlp_system<double>};
const MixtureKernels kMixtureKernels = {mixture_density, mixture_sums};
}  // namespace JPMAP_ISA
}  // namespace jpmap
