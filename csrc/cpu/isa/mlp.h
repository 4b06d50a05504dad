// Decode of a tile of images and the way back, for one instruction set.
#pragma once

#include "cpu/isa/activation.h"
#include "cpu/isa/compare.h"

namespace jpmap {
namespace JPMAP_ISA {

// Network outputs of the first `images` images of the tile, with derivatives, and f of each.
// Weights pass through the registers once for the whole tile.
template <class T>
static void mlp_forward(const Mlp<T>& mlp, const MlpTarget<T>* targets, int64_t images,
                        MlpTile<T>& tile, double* objective) {
  const T* input = tile.z;
  int64_t input_stride = mlp.latent;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    multiply_panels(input, input_stride, layer.packed, layer.inputs, images,
                    layer.stride / kPanel<T>, tile.value[l], layer.stride);
    for (int64_t i = 0; i < images; ++i) {
      for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
        const int64_t at = i * layer.stride + column;
        activate(layer.activation, layer.bias + column, tile.value[l] + at, tile.slope[l] + at,
                 tile.bend[l] + at);
      }
    }
    input = tile.value[l];
    input_stride = layer.stride;
  }
  const int64_t stride = mlp.layers[mlp.count - 1].stride;
  for (int64_t i = 0; i < images; ++i) {
    const MlpTarget<T>& t = targets[i];
    const T* out = input + i * stride;
    T* pull = tile.pull[mlp.count - 1] + i * stride;
    T* curvature = tile.curvature + i * stride;
    double lanes[kSumLanes] = {};
    compare<true>(t, 0, mlp.outputs, out, lanes, pull, curvature);
    for (int64_t j = mlp.outputs; j < stride; ++j) pull[j] = curvature[j] = T(0);
    double prior = 0;
    for (int64_t c = 0; c < mlp.latent; ++c) {
      const double z = tile.z[i * mlp.latent + c];
      prior += z * z;
    }
    objective[i] = 0.5 * sum_of(lanes) + 0.5 * prior + t.constant;
  }
}

// The data term of f, without its constant, at codes z [rows][latent] of one image. The last layer
// is compared panel by panel: its outputs are nowhere whole, unless they are to be kept.
template <class T>
static void mlp_misfit(const Mlp<T>& mlp, const MlpTarget<T>& target, const T* z, int64_t rows,
                       const MlpDraws<T>& room, double* misfit) {
  for (int64_t i = 0; i < rows * kSumLanes; ++i) room.lanes[i] = 0;
  const T* input = z;
  int64_t input_stride = mlp.latent;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    const bool last = l + 1 == mlp.count;
    for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
      T* out = last ? room.block : room.value[l % 2] + column;
      const int64_t stride = last ? kPanel<T> : layer.stride;
      multiply_panel(input, input_stride, layer.packed + column * layer.inputs, layer.inputs, rows,
                     out, stride);
      activate_panel(layer.activation, layer.bias + column, out, rows, stride);
      const int64_t left = layer.outputs - column, end = left < kPanel<T> ? left : kPanel<T>;
      if (l == room.kept_layer) {
        for (int64_t i = 0; i < rows; ++i) {
          T* to = room.kept + i * layer.outputs + column;
          for (int64_t j = 0; j < end; ++j) to[j] = out[i * stride + j];
        }
      }
      if (!last) continue;
      for (int64_t i = 0; i < rows; ++i) {
        compare<false, T>(target, column, column + end, out + i * stride,
                          room.lanes + i * kSumLanes, nullptr, nullptr);
      }
    }
    input = room.value[l % 2];
    input_stride = layer.stride;
  }
  for (int64_t i = 0; i < rows; ++i) misfit[i] = 0.5 * sum_of(room.lanes + i * kSumLanes);
}

// df/dh of every layer for the images `which` of the tile, and the gradient z + ..., in double.
template <class T>
static void mlp_backward(const Mlp<T>& mlp, const int64_t* which, int64_t images, MlpTile<T>& tile,
                         double* const* gradient) {
  for (int l = mlp.count - 1; l >= 0; --l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    for (int64_t i = 0; i < images; ++i) {
      const T* slope = tile.slope[l] + which[i] * layer.stride;
      const T* pull = tile.pull[l] + (l + 1 == mlp.count ? which[i] : i) * layer.stride;
      for (int64_t j = 0; j < layer.stride; ++j) {
        tile.carried[i * layer.stride + j] = pull[j] * slope[j];
      }
    }
    T* out = l == 0 ? tile.descent : tile.pull[l - 1];
    const int64_t panels = (layer.inputs + kPanel<T> - 1) / kPanel<T>;
    multiply_panels(tile.carried, layer.stride, layer.adjoint, layer.outputs, images, panels, out,
                    panels * kPanel<T>);
  }
  const int64_t stride = (mlp.latent + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t c = 0; c < mlp.latent; ++c) {
      gradient[i][c] = static_cast<double>(tile.z[which[i] * mlp.latent + c]) +
                       static_cast<double>(tile.descent[i * stride + c]);
    }
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
