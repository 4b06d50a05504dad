// Picks an instruction set once, from what the processor says it has.
#include <cstdlib>
#include <cstring>

#include "cpu/isa/kernels.h"

namespace jpmap {

#define JPMAP_DECLARE(isa)                        \
  namespace isa {                                 \
  extern const IsaKernels<float> kFloatKernels;   \
  extern const IsaKernels<double> kDoubleKernels; \
  extern const MixtureKernels kMixtureKernels;    \
  }
JPMAP_DECLARE(baseline)
#ifdef JPMAP_X86
JPMAP_DECLARE(avx2)
JPMAP_DECLARE(avx512)
namespace avx512bf16 {
extern const MlpCurvature<float> kBFloat16Curvature;
}
#endif

namespace {

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// JPMAP_ISA=baseline|avx2|avx512 in the environment holds a better processor back, for tests.
Isa choose() {
#ifdef JPMAP_X86
  const char* wish = std::getenv("JPMAP_ISA");
  const bool any = wish == nullptr || *wish == '\0';
  __builtin_cpu_init();
  if ((any || std::strcmp(wish, "avx512bf16") == 0) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16")) {
    return Isa::kAvx512Bf16;
  }
  if ((any || std::strcmp(wish, "avx512") == 0) && __builtin_cpu_supports("avx512f")) {
    return Isa::kAvx512;
  }
  if ((any || std::strcmp(wish, "avx2") == 0) && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

Isa chosen() {
  static const Isa isa = choose();
  return isa;
}

#ifdef JPMAP_X86
bool has_avx512() { return chosen() == Isa::kAvx512 || chosen() == Isa::kAvx512Bf16; }
#endif

}  // namespace

template <>
const IsaKernels<float>& isa_kernels<float>() {
#ifdef JPMAP_X86
  if (has_avx512()) return avx512::kFloatKernels;
  if (chosen() == Isa::kAvx2) return avx2::kFloatKernels;
#endif
  return baseline::kFloatKernels;
}

template <>
const IsaKernels<double>& isa_kernels<double>() {
#ifdef JPMAP_X86
  if (has_avx512()) return avx512::kDoubleKernels;
  if (chosen() == Isa::kAvx2) return avx2::kDoubleKernels;
#endif
  return baseline::kDoubleKernels;
}

const MixtureKernels& mixture_kernels() {
#ifdef JPMAP_X86
  if (has_avx512()) return avx512::kMixtureKernels;
  if (chosen() == Isa::kAvx2) return avx2::kMixtureKernels;
#endif
  return baseline::kMixtureKernels;
}

template <>
MlpCurvature<float> bfloat16_curvature<float>() {
#ifdef JPMAP_X86
  if (chosen() == Isa::kAvx512Bf16) return avx512bf16::kBFloat16Curvature;
#endif
  return nullptr;
}

template <>
MlpCurvature<double> bfloat16_curvature<double>() {
  return nullptr;
}

bool takes_bfloat16() { return bfloat16_curvature<float>() != nullptr; }

const char* isa_name() {
  switch (chosen()) {
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
#ifdef __aarch64__
      return "neon";
#else
      return "baseline";
#endif
  }
}

}  // namespace jpmap
