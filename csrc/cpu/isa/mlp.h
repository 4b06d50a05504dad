// Decode and normal equations of a tile of images, for one instruction set.
#pragma once

#include "cpu/isa/activation.h"

namespace jpmap {
namespace JPMAP_ISA {

// Network outputs of the first `images` images of the tile, with slopes, and f of each. Weights
// pass through the registers once for the whole tile.
template <class T>
static void mlp_forward(const Mlp<T>& mlp, const MlpTarget<T>* targets, int64_t images,
                        MlpTile<T>& tile, double* objective) {
  const T* input = tile.z;
  int64_t input_stride = mlp.latent;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
      T* out = tile.value[l] + column;
      multiply_panel(input, input_stride, layer.packed + column * layer.inputs, layer.inputs,
                     images, out, layer.stride);
      for (int64_t i = 0; i < images; ++i) {
        activate(layer.activation, layer.bias + column, out + i * layer.stride,
                 tile.slope[l] + i * layer.stride + column);
      }
    }
    input = tile.value[l];
    input_stride = layer.stride;
  }
  const int64_t stride = mlp.layers[mlp.count - 1].stride;
  for (int64_t i = 0; i < images; ++i) {
    const MlpTarget<T>& t = targets[i];
    const T* out = input + i * stride;
    T* pull = tile.pull + i * stride;
    T* curvature = tile.curvature + i * stride;
    constexpr int kLanes = 16;
    double lanes[kLanes] = {};
    for (int64_t j = 0; j < mlp.outputs; ++j) {
      const T w = t.weight[t.weight_scalar ? 0 : j], s = t.scale == nullptr ? T(1) : t.scale[j];
      const T r = t.target[j] - s * out[j];
      lanes[j % kLanes] += static_cast<double>(r) * (w * r);
      pull[j] = s * w * r;
      curvature[j] = s * s * w;
    }
    for (int64_t j = mlp.outputs; j < stride; ++j) pull[j] = curvature[j] = T(0);
    double data = 0, prior = 0;
    for (int lane = 0; lane < kLanes; ++lane) data += lanes[lane];
    for (int64_t c = 0; c < mlp.latent; ++c) {
      const double z = tile.z[i * mlp.latent + c];
      prior += z * z;
    }
    objective[i] = 0.5 * data + 0.5 * prior + t.constant;
  }
}

// One panel of the last layer's tangents: adds sum_j c_aj w_j c_bj and sum_j c_aj pull_j.
template <class T>
static inline void accumulate(int64_t latent, const T* slope, const T* pull, const T* curvature,
                              T* rows, T* weighted, T* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  V* total = reinterpret_cast<V*>(sums);
  for (int64_t a = 0; a < latent; ++a) {
    V* row = reinterpret_cast<V*>(rows + a * kPanel<T>);
    V* heavy = reinterpret_cast<V*>(weighted + a * kPanel<T>);
    for (int v = 0; v < kVectors; ++v) {
      row[v] *= *reinterpret_cast<const V*>(slope + v * kWidth);
      heavy[v] = row[v] * *reinterpret_cast<const V*>(curvature + v * kWidth);
      *total += row[v] * *reinterpret_cast<const V*>(pull + v * kWidth);
    }
    ++total;
    for (int64_t b = 0; b <= a; ++b, ++total) {
      const V* other = reinterpret_cast<const V*>(rows + b * kPanel<T>);
      for (int v = 0; v < kVectors; ++v) *total += heavy[v] * other[v];
    }
  }
}

// Gradient z - J^T pull and matrix I + J^T diag(curvature) J of the images `which` of the tile,
// after mlp_forward; in double, [latent] and [latent][latent].
template <class T>
static void mlp_normal_equations(const Mlp<T>& mlp, const int64_t* which, int64_t images,
                                 MlpTile<T>& tile, double* const* gradient, double* const* matrix) {
  const int64_t k = mlp.latent, rows = images * k;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const int64_t entries = k + k * (k + 1) / 2;
  for (int64_t i = 0; i < images * entries * kWidth; ++i) tile.sums[i] = T(0);
  const T* input = nullptr;
  int64_t input_stride = 0;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    const bool last = l + 1 == mlp.count;
    T* output = tile.tangent[l % 2];
    for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
      const T* panel = layer.packed + column * layer.inputs;
      T* block = last ? tile.block : output + column;
      const int64_t block_stride = last ? kPanel<T> : layer.stride;
      if (l == 0) {
        // The first layer's tangents are the columns of its matrix, the same for every image.
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t j = 0; j < kPanel<T>; ++j) {
            block[row * block_stride + j] = panel[row % k * kPanel<T> + j];
          }
        }
      } else {
        multiply_panel(input, input_stride, panel, layer.inputs, rows, block, block_stride);
      }
      for (int64_t i = 0; i < images; ++i) {
        const int64_t at = which[i] * layer.stride + column;
        const T* slope = tile.slope[l] + at;
        if (last) {
          accumulate(k, slope, tile.pull + at, tile.curvature + at, block + i * k * kPanel<T>,
                     tile.block + rows * kPanel<T>, tile.sums + i * entries * kWidth);
        } else {
          for (int64_t row = i * k; row < (i + 1) * k; ++row) {
            for (int64_t j = 0; j < kPanel<T>; ++j) block[row * block_stride + j] *= slope[j];
          }
        }
      }
    }
    input = output;
    input_stride = layer.stride;
  }
  for (int64_t i = 0; i < images; ++i) {
    const T* sum = tile.sums + i * entries * kWidth;
    const auto next = [&] {
      double total = 0;
      for (int lane = 0; lane < kWidth; ++lane) total += sum[lane];
      sum += kWidth;
      return total;
    };
    for (int64_t a = 0; a < k; ++a) {
      gradient[i][a] = tile.z[which[i] * k + a] - next();
      for (int64_t b = 0; b <= a; ++b) {
        matrix[i][a * k + b] = matrix[i][b * k + a] = next() + (a == b ? 1.0 : 0.0);
      }
    }
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
