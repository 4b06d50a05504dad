// Second derivatives of a tile of images: tangents of every layer, and the matrices they add up to.
#pragma once

#include <type_traits>

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_gram.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

// Columns [column, column + width) of a layer's tangents, of images that pass together.
struct TangentPiece {
  const int* accepted;  // slots of the images
  int images, rows;     // rows: tangents of all of them, at.latent_rows each
  int l, column, width;
  int stride;  // columns that a row of the layer's pieces has room for
  bool last;   // whether the layer is
};

// Beyond the range of float16 cut off, NaN included: f of such an image is NaN as well.
__device__ inline void store_half2(__half* p, float a, float b) {
  const __half2 largest = __float2half2_rn(65504.0f);
  const __half2 pair = __floats2half2_rn(a, b);
  *reinterpret_cast<__half2*>(p) = __hmax2(__hmin2(pair, largest), __hneg2(largest));
}

__device__ inline float4 times(float4 v, float factor) {
  return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

// Copies the piece's slopes, Hessian weights and, of the last layer, precisions to shared memory,
// one row of `width` an image. The slopes are multiplied by `scale`, and what weighs squares of
// tangents is by the square of `unscale`.
__device__ inline void stage(const MlpTileView& tile, const TangentPiece& piece, float scale,
                             float unscale) {
  const auto& at = tile.at;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int from[3] = {at.pre[piece.l], at.value[piece.l], at.precision};
#pragma unroll
  for (int array = 0; array < 3; ++array) {
    if (array == 2 && !piece.last) break;
    for (int image = warp; image < piece.images; image += kMlpWarps) {
      const float* source = tile.slot(piece.accepted[image]) + from[array] + piece.column;
      float* target = tile.staged + array * at.staged + image * piece.width;
#pragma unroll 4
      for (int j = 4 * lane; j < piece.width; j += 128) {
        const float4 v = *reinterpret_cast<const float4*>(source + j);
        *reinterpret_cast<float4*>(target + j) =
            array == 0 ? times(v, scale) : times(times(v, unscale), unscale);
      }
    }
  }
}

// Tangents past the activation of the first layer: the columns of its matrix, times the slopes.
__device__ __forceinline__ void first_tangents(const MlpTileView& tile, const TangentPiece& piece) {
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[0];
  const int k = tile.net.latent, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __half* out = tile.halves(0);
  for (int row = warp; row < piece.rows; row += kMlpWarps) {
    const int c = row & (at.latent_rows - 1);
    const float* slope = tile.staged + (row >> at.latent_shift) * piece.width;
    const float* w = layer.columns + min(c, k - 1) * layer.stride + piece.column;
#pragma unroll 4
    for (int j = 2 * lane; j < piece.width; j += 64) {
      const float2 s = load2(slope + j), v = c < k ? load2(w + j) : make_float2(0, 0);
      store_half2(out + row * half_row(piece.stride) + j, v.x * s.x, v.y * s.y);
    }
  }
}

// The same of a layer further up: the tangents below times its matrix, times the slopes.
__device__ __forceinline__ void next_tangents(const MlpTileView& tile, const TangentPiece& piece) {
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[piece.l];
  __half* out = tile.halves(piece.l % 2);
  const int out_stride = half_row(piece.stride);
  half_product(
      tile.halves((piece.l + 1) % 2), half_row(layer.inputs), layer.half, layer.inputs,
      piece.column, piece.column + piece.width, piece.rows,
      [&](int row, int j) {
        const int image = min(row, piece.rows - 1) >> at.latent_shift;
        return load2(tile.staged + image * piece.width + j - piece.column);
      },
      [&](int row, int j, float v0, float v1, float2 slope) {
        if (row >= piece.rows) return;
        store_half2(out + row * out_stride + j - piece.column, v0 * slope.x, v1 * slope.y);
      });
}

// What the piece adds to the matrices. A warp has eight columns of one image's, always the same.
__device__ __forceinline__ void add_to_matrices(const MlpTileView& tile, const TangentPiece& piece,
                                                bool second_order) {
  const auto& at = tile.at;
  const int k = tile.net.latent, kp = at.latent_rows, warp = threadIdx.x / 32;
  if (8 * warp >= piece.rows) return;
  const int image = 8 * warp >> at.latent_shift, eight = 8 * warp & (kp - 1);
  const int out_stride = half_row(piece.stride);
  const __half* mine = tile.halves(piece.l % 2) + image * kp * out_stride;
  const float* weights = tile.staged + at.staged + image * piece.width;
  const float* precisions = weights + at.staged;
  float* slot = tile.slot(piece.accepted[image]);
  const bool bent = second_order && bends(tile.net.layers[piece.l].activation);
  const auto add = [&](auto latent_rows) {
    add_piece<latent_rows.value>(mine, out_stride, eight, bent ? weights : nullptr,
                                 piece.last ? precisions : nullptr, piece.width, k,
                                 piece.l == 0 && piece.column == 0, piece.column == 0,
                                 slot + at.hessian, slot + at.matrix);
  };
  if (kp == 8) {
    add(std::integral_constant<int, 8>{});
  } else if (kp == 16) {
    add(std::integral_constant<int, 16>{});
  } else if (kp == 32) {
    add(std::integral_constant<int, 32>{});
  } else {
    add(std::integral_constant<int, 64>{});
  }
}

// The Gauss-Newton matrices of the accepted slots, and what turns them into Hessians. Tangents in
// float16 are those of the network times its layers' scales so far, `scale`: whatever units weights
// and codes are in, they neither vanish nor overflow. As powers of two, scales round nothing.
__device__ __forceinline__ void second_derivatives(const MlpTileView& tile, const int* accepted,
                                                   int count, bool second_order) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int together = at.tangent_rows >> at.latent_shift;
  for (int begin = 0; begin < count; begin += together) {
    const int images = min(together, count - begin), rows = images * at.latent_rows;
    float scale = 1.0f;
    for (int l = 0; l < net.count; ++l) {
      const auto& layer = net.layers[l];
      scale *= *layer.scale;
      const float unscale = __frcp_rn(scale);
      const bool last = l + 1 == net.count;
      const int stride = last ? at.piece : layer.stride;
      for (int column = 0; column < layer.stride; column += stride) {
        const TangentPiece piece{
            accepted + begin, images, rows, l, column, min(stride, layer.stride - column),
            stride,           last};
        stage(tile, piece, l == 0 ? scale : 1.0f, unscale);
        __syncthreads();  // staged
        if (l == 0) {
          first_tangents(tile, piece);
        } else {
          next_tangents(tile, piece);
        }
        __syncthreads();  // tangents
        add_to_matrices(tile, piece, second_order);
        __syncthreads();  // added
      }
    }
  }
}

}  // namespace jpmap
