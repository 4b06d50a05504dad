// Sizes and checks of x_update_spectral, shared by its CPU and CUDA versions.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "check.h"

namespace jpmap {

// Half spectra: images [H, W / 2 + 1], measurements [H / f, W / f / 2 + 1].
struct SpectralSizes {
  int64_t batch, channels, height, width, factor, latent;
  int64_t columns, low_height, low_width, low_columns;
  int64_t kernel_image_stride, kernel_channel_stride;  // complex numbers; 0 where it is shared
};

inline SpectralSizes check_x_update_spectral(const Tensor& decoded,  // [B, C, H, W / 2 + 1, 2]
                                             const Tensor& y,  // [B, C, H / f, W / f / 2 + 1, 2]
                                             const Tensor& kernel,  // [C or 1, H, W / 2 + 1, 2] or
                                                                    // [B, C or 1, H, W / 2 + 1, 2]
                                             const Tensor& z,       // [B, k]
                                             const Tensor& beta,    // [B]
                                             const Tensor& sigma,   // [B]
                                             int64_t width, int64_t factor) {
  constexpr const char* op = "x_update_spectral";
  STD_TORCH_CHECK(decoded.dim() == 5 && z.dim() == 2, op,
                  ": expected decoded [B, C, H, W / 2 + 1, 2], z [B, k]");
  STD_TORCH_CHECK(kernel.dim() == 4 || kernel.dim() == 5, op,
                  ": expected kernel of 4 or 5 dimensions, got ", kernel.dim());
  SpectralSizes s{};
  s.batch = decoded.size(0), s.channels = decoded.size(1), s.height = decoded.size(2);
  s.width = width, s.factor = factor, s.latent = z.size(1);
  STD_TORCH_CHECK(factor >= 1 && width >= 1 && s.height % factor == 0 && width % factor == 0, op,
                  ": expected a factor that divides ", s.height, " x ", width, ", got ", factor);
  s.columns = width / 2 + 1, s.low_height = s.height / factor;
  s.low_width = width / factor, s.low_columns = s.low_width / 2 + 1;
  check_shape(op, "decoded", decoded, {s.batch, s.channels, s.height, s.columns, 2});
  check(op, "y", y, decoded, {s.batch, s.channels, s.low_height, s.low_columns, 2});
  check(op, "z", z, decoded, {s.batch, s.latent});
  check(op, "beta", beta, decoded, {s.batch});
  check(op, "sigma", sigma, decoded, {s.batch});
  const bool per_image = kernel.dim() == 5;
  const int64_t own = kernel.size(per_image ? 1 : 0);
  const int64_t kernels = own == 1 ? 1 : s.channels, plane = s.height * s.columns;
  if (per_image) {
    check(op, "kernel", kernel, decoded, {s.batch, kernels, s.height, s.columns, 2});
  } else {
    check(op, "kernel", kernel, decoded, {kernels, s.height, s.columns, 2});
  }
  s.kernel_channel_stride = kernels == 1 ? 0 : plane;
  s.kernel_image_stride = per_image ? kernels * plane : 0;
  return s;
}

}  // namespace jpmap
