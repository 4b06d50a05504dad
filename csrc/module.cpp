// jpmap_fast._C: importing it loads libjpmap_fast, which registers every schema and the CPU
// kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cluster_support.h"
#include "cpu/isa/kernels.h"
#include "damped_system.h"
#include "jpmap_task.h"
#include "mlp_layout.h"
#include "mlp_task_layout.h"
#include "student_mixture.h"

#ifndef JPMAP_TORCH_VERSION
#define JPMAP_TORCH_VERSION "unknown"
#endif
#ifndef JPMAP_CUDA_VERSION
#define JPMAP_CUDA_VERSION ""
#endif
#ifndef JPMAP_CUDA_ARCHITECTURES
#define JPMAP_CUDA_ARCHITECTURES ""
#endif

namespace {

// Widths as Python has them, padded as the CUDA kernels do. At most kMaxLayers of them.
jpmap::MlpShape shape_of(int64_t latent, const std::vector<int64_t>& widths) {
  if (latent < 1 || latent > jpmap::kMaxLatent || widths.empty() ||
      widths.size() > static_cast<size_t>(jpmap::kMaxLayers)) {
    throw std::invalid_argument("expected 1 to " + std::to_string(jpmap::kMaxLatent) +
                                " latent dimensions and 1 to " + std::to_string(jpmap::kMaxLayers) +
                                " layers, got " + std::to_string(latent) + " and " +
                                std::to_string(widths.size()));
  }
  jpmap::MlpShape shape{latent, static_cast<int>(widths.size()), {}};
  for (int l = 0; l < shape.count; ++l) shape.strides[l] = (widths[l] + 31) / 32 * 32;
  return shape;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("max_layers") = jpmap::kMaxLayers;
  m.attr("max_latent") = jpmap::kMaxLatent;
  m.attr("max_mixture_latent") = jpmap::kMaxMixtureLatent;
  m.attr("max_damped_system") = jpmap::kMaxDampedSystem;
  pybind11::tuple shares(jpmap::kHessianShares);
  for (int i = 0; i < jpmap::kHessianShares; ++i) shares[i] = jpmap::hessian_share(i);
  m.attr("hessian_shares") = shares;
  m.attr("model_left") = jpmap::kModelLeft;
  m.attr("short_step") = jpmap::kShortStep;
  m.attr("back_step") = jpmap::kBackStep;
  m.attr("near") = jpmap::kNear;
  m.def("longest_last_step", &jpmap::longest_last_step, pybind11::arg("tolerance"),
        "Root mean square of a Newton step up to which it ends a descent.");
  m.attr("task_status") =
      pybind11::dict(pybind11::arg("CONVERGED") = static_cast<int>(jpmap::kConverged),
                     pybind11::arg("ITERATION_LIMIT") = static_cast<int>(jpmap::kIterationLimit),
                     pybind11::arg("TOLERANCE_LIMIT") = static_cast<int>(jpmap::kToleranceLimit),
                     pybind11::arg("FAILED") = static_cast<int>(jpmap::kFailed),
                     pybind11::arg("COVERED") = static_cast<int>(jpmap::kCovered),
                     pybind11::arg("NOTHING_LEFT") = jpmap::kNothingLeft);
  m.def("holds_clusters", &jpmap::holds_clusters, pybind11::arg("ptx"), pybind11::arg("binary"),
        "Whether code of these versions (cudaFuncAttributes) has a cluster kernel.");
  m.def("damped_shared_memory", &jpmap::damped_shared_memory, pybind11::arg("k"),
        "Bytes of shared memory a block of damped_solve takes on a GPU.");
  m.def(
      "mlp_shared_memory",
      [](int64_t latent, const std::vector<int64_t>& widths) {
        return jpmap::least_layout(shape_of(latent, widths)).bytes + jpmap::kMlpReserved;
      },
      pybind11::arg("latent"), pybind11::arg("widths"),
      "Bytes of shared memory a GPU must offer a block for the MLP operators.");
  m.def(
      "mlp_task_memory",
      [](int64_t latent, const std::vector<int64_t>& widths, const std::vector<int64_t>& decoder,
         const std::vector<int64_t>& encoder) {
        const jpmap::MlpShape none{latent, 0, {}};
        const jpmap::MlpTaskLayout at(shape_of(latent, widths), shape_of(latent, decoder),
                                      encoder.empty() ? none : shape_of(latent, encoder), 1, 16);
        return at.bytes + jpmap::kMlpReserved;
      },
      pybind11::arg("latent"), pybind11::arg("widths"), pybind11::arg("decoder"),
      pybind11::arg("encoder"),
      "Bytes of shared memory a GPU must offer a block for mlp_jpmap without clusters.");
  m.def(
      "mlp_layout",
      [](int64_t latent, const std::vector<int64_t>& widths, int images, int rows) {
        const jpmap::MlpLayout at(shape_of(latent, widths), images, rows);
        pybind11::dict layout;
        layout["tangent_rows"] = at.tangent_rows;
        layout["area"] = pybind11::make_tuple(at.area[0], at.area[1]);
        layout["piece"] = at.piece;
        layout["bytes"] = at.bytes;
        return layout;
      },
      pybind11::arg("latent"), pybind11::arg("widths"), pybind11::arg("images"),
      pybind11::arg("rows"), "The layout of a tile of images in a block's shared memory.");
  m.def(
      "mlp_draw_memory",
      [](int64_t latent, const std::vector<int64_t>& widths, int rows) {
        return jpmap::MlpDrawLayout(shape_of(latent, widths), rows).bytes + jpmap::kMlpReserved;
      },
      pybind11::arg("latent"), pybind11::arg("widths"), pybind11::arg("rows"),
      "Bytes of shared memory that mlp_log_likelihood takes for so many draws together.");
  m.def("takes_bfloat16", &jpmap::takes_bfloat16,
        "Whether the MLP operators of the CPU make use of tangents in bfloat16.");
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
