// Second derivatives of a tile of images: tangents of every layer, and the matrices they add up to.
#pragma once

#include <type_traits>

#include "cuda/matrix_product.cuh"
#include "cuda/mlp_gram.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

// Beyond the range of float16 cut off, NaN included: f of such an image is NaN as well.
__device__ inline void store_half2(__half* p, float a, float b) {
  const __half2 largest = __float2half2_rn(65504.0f);
  const __half2 pair = __floats2half2_rn(a, b);
  *reinterpret_cast<__half2*>(p) = __hmax2(__hmin2(pair, largest), __hneg2(largest));
}

__device__ inline float4 times(float4 v, float factor) {
  return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

// Copies columns [column, column + width) of the images' slopes, Hessian weights and, of the last
// layer, precisions to shared memory, one row of `width` an image. The slopes are multiplied by
// `scale`, and what weighs squares of tangents is by the square of `unscale`.
__device__ inline void stage(const MlpTileView& tile, const int* accepted, int images, int l,
                             int column, int width, bool last, float scale, float unscale) {
  const auto& at = tile.at;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int from[3] = {at.pre[l], at.value[l], at.precision};
  for (int job = warp; job < (last ? 3 : 2) * images; job += kMlpWarps) {
    const int array = job / images, image = job % images;
    const float* source = tile.slot(accepted[image]) + from[array] + column;
    float* target = tile.staged + array * at.staged + image * width;
    const float one = array == 0 ? scale : unscale, other = array == 0 ? 1.0f : unscale;
#pragma unroll 4
    for (int j = 4 * lane; j < width; j += 128) {
      *reinterpret_cast<float4*>(target + j) =
          times(times(*reinterpret_cast<const float4*>(source + j), one), other);
    }
  }
}

// Columns [column, column + width) of the first layer's tangents past the activation, of all
// `images`: the columns of its matrix times the slopes [images][width].
__device__ __forceinline__ void first_tangents(const MlpTileView& tile, const float* slopes,
                                               int images, int column, int width, __half* out,
                                               int out_stride) {
  const auto& layer = tile.net.layers[0];
  const int k = tile.net.latent, kp = tile.at.latent_rows;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int c = warp; c < kp; c += kMlpWarps) {
    const float* w = layer.columns + min(c, k - 1) * layer.stride + column;
    for (int j = 2 * lane; j < width; j += 64) {
      const float2 v = c < k ? load2(w + j) : make_float2(0, 0);
#pragma unroll 4
      for (int image = 0; image < images; ++image) {
        const float2 s = load2(slopes + image * width + j);
        store_half2(out + (image * kp + c) * out_stride + j, v.x * s.x, v.y * s.y);
      }
    }
  }
}

// The same of a layer further up: the tangents below, `in`, times its matrix, times the slopes.
__device__ __forceinline__ void next_tangents(const MlpTileView& tile, const float* slopes, int l,
                                              const __half* in, int in_stride, int rows, int column,
                                              int width, __half* out, int out_stride) {
  const auto& layer = tile.net.layers[l];
  half_product(
      in, in_stride, layer.split_rows, layer.inputs, column, column + width, rows,
      [&](int row, int j) {
        return load2(slopes + (min(row, rows - 1) >> tile.at.latent_shift) * width + j - column);
      },
      [&](int row, int j, float v0, float v1, float2 slope) {
        if (row >= rows) return;
        store_half2(out + row * out_stride + j - column, v0 * slope.x, v1 * slope.y);
      });
}

// The Gauss-Newton matrices of the accepted slots, and what turns them into Hessians. Tangents in
// float16 are those of the network times its layers' scales so far, `scale`: whatever units weights
// and codes are in, they neither vanish nor overflow. As powers of two, scales round nothing.
__device__ __forceinline__ void second_derivatives(const MlpTileView& tile, const int* accepted,
                                                   int count, bool second_order) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int k = net.latent, kp = at.latent_rows, together = at.tangent_rows >> at.latent_shift;
  const int warp = threadIdx.x / 32;
  const float *slopes = tile.staged, *weights = slopes + at.staged;
  const float* precisions = weights + at.staged;
  for (int begin = 0; begin < count; begin += together) {
    const int images = min(together, count - begin), rows = images * kp;
    float scale = 1.0f;
    for (int l = 0; l < net.count; ++l) {
      const auto& layer = net.layers[l];
      scale *= *layer.scale;
      const float unscale = __frcp_rn(scale);
      const bool last = l + 1 == net.count;
      const int piece = last ? at.piece : layer.stride;
      const int in_stride = half_row(layer.inputs), out_stride = half_row(piece);
      const __half* in = tile.halves((l + 1) % 2);
      __half* out = tile.halves(l % 2);
      for (int column = 0; column < layer.stride; column += piece) {
        const int width = min(piece, layer.stride - column);
        stage(tile, accepted + begin, images, l, column, width, last,
              l == 0 ? scale : 1.0f / kSplitScale, unscale);
        __syncthreads();  // staged
        if (l == 0) {
          first_tangents(tile, slopes, images, column, width, out, out_stride);
        } else {
          next_tangents(tile, slopes, l, in, in_stride, rows, column, width, out, out_stride);
        }
        __syncthreads();  // tangents
        // A warp has eight columns of a matrix of one image, always the same: first the Hessians,
        // to which the last layer alone adds what is the other matrices'.
        const bool bent = second_order && bends(layer.activation), first = l == 0 && column == 0;
        for (int job = warp; job < 2 * kMlpTangentRows / 8; job += kMlpWarps) {
          const bool of_hessian = job < kMlpTangentRows / 8;
          const int mine = 8 * job % kMlpTangentRows;
          if (mine >= rows || !(of_hessian ? bent || first : last)) continue;
          const int image = mine >> at.latent_shift, eight = mine & (kp - 1);
          const __half* tangents = out + image * kp * out_stride;
          float* slot = tile.slot(accepted[begin + image]);
          const float* by = (of_hessian ? weights : precisions) + image * width;
          const auto add = [&](auto latent_rows) {
            add_piece<latent_rows.value>(tangents, out_stride, eight,
                                         of_hessian && !bent ? nullptr : by, width, k,
                                         of_hessian ? first : column == 0, of_hessian ? 0.0f : 1.0f,
                                         slot + (of_hessian ? at.hessian : at.matrix));
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
        __syncthreads();  // added
      }
    }
  }
}

}  // namespace jpmap
