// What this instruction set has beyond AVX-512; everything else is that of avx512.cpp.
#define JPMAP_ISA avx512bf16
#include "cpu/isa/bfloat16.h"
#include "cpu/isa/curvature.h"

namespace jpmap {
namespace JPMAP_ISA {
extern const MlpCurvature<float> kBFloat16Curvature;
const MlpCurvature<float> kBFloat16Curvature = mlp_curvature<float, PairTangents>;
}  // namespace JPMAP_ISA
}  // namespace jpmap
