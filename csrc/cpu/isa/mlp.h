// Decode and normal equations of a tile of images, for one instruction set.
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
    for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
      T* out = tile.value[l] + column;
      multiply_panel(input, input_stride, layer.packed + column * layer.inputs, layer.inputs,
                     images, out, layer.stride);
      for (int64_t i = 0; i < images; ++i) {
        activate(layer.activation, layer.bias + column, out + i * layer.stride,
                 tile.slope[l] + i * layer.stride + column,
                 tile.bend[l] + i * layer.stride + column);
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
    const int64_t out_stride = (layer.inputs + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
    for (int64_t column = 0; column < out_stride; column += kPanel<T>) {
      multiply_panel(tile.carried, layer.stride, layer.adjoint + column * layer.outputs,
                     layer.outputs, images, out + column, out_stride);
    }
  }
  const int64_t stride = (mlp.latent + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t c = 0; c < mlp.latent; ++c) {
      gradient[i][c] = static_cast<double>(tile.z[which[i] * mlp.latent + c]) +
                       static_cast<double>(tile.descent[i * stride + c]);
    }
  }
}

// Adds sum_j rows_aj weight_j rows_bj over one panel, for a >= b, to the vectors `sums`.
template <class T>
static inline void accumulate(int64_t latent, const T* weight, const T* rows, int64_t row_stride,
                              T* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  V* total = reinterpret_cast<V*>(sums);
  for (int64_t a = 0; a < latent; ++a) {
    V heavy[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      heavy[v] = *reinterpret_cast<const V*>(rows + a * row_stride + v * kWidth) *
                 *reinterpret_cast<const V*>(weight + v * kWidth);
    }
    for (int64_t b = 0; b <= a; ++b, ++total) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        *total += heavy[v] * *reinterpret_cast<const V*>(rows + b * row_stride + v * kWidth);
      }
    }
  }
}

// The images `which` of the tile, after mlp_forward, in double: the gradient [latent], the
// Gauss-Newton matrix I + J^T diag(curvature) J and the Hessian [latent][latent] of f. The Hessian
// is that matrix plus sum_l A_l^T diag(df/dh_l f''_l) A_l, A_l the pre-activation tangents of layer
// l; it is left alone where `second_order` is not set.
template <class T>
static void mlp_system(const Mlp<T>& mlp, const int64_t* which, int64_t images, bool second_order,
                       MlpTile<T>& tile, double* const* gradient, double* const* matrix,
                       double* const* hessian) {
  mlp_backward(mlp, which, images, tile, gradient);
  const int64_t k = mlp.latent, rows = images * k;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const int64_t entries = k * (k + 1) / 2 * kWidth;
  for (int64_t i = 0; i < images * 2 * entries; ++i) tile.sums[i] = T(0);
  const T* input = nullptr;
  int64_t input_stride = 0;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    const bool last = l + 1 == mlp.count;
    const bool bent = second_order && layer.activation != Activation::kRelu &&
                      layer.activation != Activation::kIdentity;
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
        T* mine = block + i * k * block_stride;
        T* sums = tile.sums + i * 2 * entries;
        if (bent) {
          const T* pull = tile.pull[l] + (last ? at : i * layer.stride + column);
          T weight[kPanel<T>];
          for (int64_t j = 0; j < kPanel<T>; ++j) weight[j] = pull[j] * tile.bend[l][at + j];
          accumulate(k, weight, mine, block_stride, sums + entries);
        }
        for (int64_t row = 0; row < k; ++row) {
          for (int64_t j = 0; j < kPanel<T>; ++j) mine[row * block_stride + j] *= slope[j];
        }
        if (last) accumulate(k, tile.curvature + at, mine, block_stride, sums);
      }
    }
    input = output;
    input_stride = layer.stride;
  }
  for (int64_t i = 0; i < images; ++i) {
    const auto total = [&](int64_t entry) {
      const T* lanes = tile.sums + i * 2 * entries + entry * kWidth;
      double sum = 0;
      for (int lane = 0; lane < kWidth; ++lane) sum += lanes[lane];
      return sum;
    };
    int64_t entry = 0;
    for (int64_t a = 0; a < k; ++a) {
      for (int64_t b = 0; b <= a; ++b, ++entry) {
        const double gauss_newton = total(entry) + (a == b ? 1.0 : 0.0);
        matrix[i][a * k + b] = matrix[i][b * k + a] = gauss_newton;
        if (!second_order) continue;
        hessian[i][a * k + b] = hessian[i][b * k + a] =
            gauss_newton + total(entry + k * (k + 1) / 2);
      }
    }
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
