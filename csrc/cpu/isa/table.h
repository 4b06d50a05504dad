// Defines this instruction set's tables; included last by each file of this folder.
#include "cpu/isa/kernels.h"
#include "cpu/isa/tile.h"

namespace jpmap {
namespace JPMAP_ISA {
extern const IsaKernels<float> kFloatKernels;
extern const IsaKernels<double> kDoubleKernels;
const IsaKernels<float> kFloatKernels = {multiply_panel<float>};
const IsaKernels<double> kDoubleKernels = {multiply_panel<double>};
}  // namespace JPMAP_ISA
}  // namespace jpmap
