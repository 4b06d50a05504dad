// The matrices of second derivatives of a tile of images, for one instruction set.
#pragma once

#include "cpu/isa/tile.h"
#include "mlp_network.h"

namespace jpmap {
namespace JPMAP_ISA {

// How tangents pass from layer to layer: as numbers of type T. Another form of them has the same
// members, see cpu/isa/bfloat16.h.
template <class T>
struct Tangents {
  using Stored = T;  // `layer.stride` of them a row

  // out[rows][kPanel] = rows times the panel of the layer that begins with this output
  static void multiply(const MlpLayer<T>& layer, int64_t column, const Stored* input,
                       int64_t input_stride, int64_t rows, T* out) {
    multiply_panel(input, input_stride, layer.packed + column * layer.inputs, layer.inputs, rows,
                   out, kPanel<T>);
  }

  static void store(const T* values, Stored* to) {  // [kPanel]
    for (int64_t j = 0; j < kPanel<T>; ++j) to[j] = values[j];
  }
};

// Adds sum_j rows_aj weight_j rows_bj over one panel, rows [latent][kPanel], for a >= b, to the
// vectors `sums`.
template <class T>
static inline void accumulate(int64_t latent, const T* weight, const T* rows, T* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  V* total = reinterpret_cast<V*>(sums);
  for (int64_t a = 0; a < latent; ++a) {
    V heavy[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      heavy[v] = *reinterpret_cast<const V*>(rows + a * kPanel<T> + v * kWidth) *
                 *reinterpret_cast<const V*>(weight + v * kWidth);
    }
    for (int64_t b = 0; b <= a; ++b, ++total) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        *total += heavy[v] * *reinterpret_cast<const V*>(rows + b * kPanel<T> + v * kWidth);
      }
    }
  }
}

// The images `which` of the tile, after mlp_forward and mlp_backward, in double: the Gauss-Newton
// matrix I + J^T diag(curvature) J and the Hessian [latent][latent] of f. The Hessian is that
// matrix plus sum_l A_l^T diag(df/dh_l f''_l) A_l, A_l the pre-activation tangents of layer l; it
// is left alone where `second_order` is not set.
//
// Tangents pass from layer to layer as `Form` has them; what is summed up over a panel is of type
// T.
template <class T, template <class> class Form>
static void mlp_curvature(const Mlp<T>& mlp, const int64_t* which, int64_t images,
                          bool second_order, MlpTile<T>& tile, double* const* matrix,
                          double* const* hessian) {
  using V = typename VectorOf<T>::type;
  using Stored = typename Form<T>::Stored;
  const int64_t k = mlp.latent, rows = images * k;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const int64_t entries = k * (k + 1) / 2 * kWidth;
  for (int64_t i = 0; i < images * 2 * entries; ++i) tile.sums[i] = T(0);
  const Stored* input = nullptr;
  int64_t input_stride = 0;
  for (int l = 0; l < mlp.count; ++l) {
    const MlpLayer<T>& layer = mlp.layers[l];
    const bool last = l + 1 == mlp.count;
    const bool bent = second_order && layer.activation != Activation::kRelu &&
                      layer.activation != Activation::kIdentity;
    Stored* output = reinterpret_cast<Stored*>(tile.tangent[l % 2]);
    for (int64_t column = 0; column < layer.stride; column += kPanel<T>) {
      if (l > 0) Form<T>::multiply(layer, column, input, input_stride, rows, tile.block);
      for (int64_t i = 0; i < images; ++i) {
        T* mine = tile.block + i * k * kPanel<T>;
        // The first layer's tangents are the columns of its matrix, the same for every image.
        const T* before = l == 0 ? layer.packed + column * k : mine;
        const int64_t at = which[i] * layer.stride + column;
        const T* slope = tile.slope[l] + at;
        T* sums = tile.sums + i * 2 * entries;
        if (bent) {
          const T* pull = tile.pull[l] + (last ? at : i * layer.stride + column);
          T weight[kPanel<T>];
          for (int64_t j = 0; j < kPanel<T>; ++j) weight[j] = pull[j] * tile.bend[l][at + j];
          accumulate(k, weight, before, sums + entries);
        }
        for (int64_t row = 0; row < k; ++row) {
          const T* from = before + row * kPanel<T>;
          T* after = mine + row * kPanel<T>;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            *reinterpret_cast<V*>(after + v * kWidth) =
                *reinterpret_cast<const V*>(from + v * kWidth) *
                *reinterpret_cast<const V*>(slope + v * kWidth);
          }
          if (!last) Form<T>::store(after, output + (i * k + row) * layer.stride + column);
        }
        if (last) accumulate(k, tile.curvature + at, mine, sums);
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
