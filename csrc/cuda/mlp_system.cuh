// Decode, residual, gradient and second derivatives of a tile of images, by one block.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/matrix_product.cuh"
#include "cuda/mlp_network.cuh"
#include "mlp_layout.h"

namespace jpmap {

struct MlpData {
  const float* start;      // [B][k]
  const float* target;     // [B][p]
  const float* weight;     // [B][p] or [B][1]
  const float* scale;      // [p] or [B][p], or null
  const double* constant;  // [B], or null
  int64_t batch, scale_stride;
  bool weight_scalar;
};

// A block's view of its tile.
struct MlpTileView {
  const MlpNetwork& net;
  const MlpLayout& at;
  char* areas;      // shared, two
  float* staged;    // shared, three times at.staged
  float* trial;     // shared [images][k]
  float* gradient;  // shared [images][k]
  float* slots;     // device memory [images][at.slot]

  __device__ float* slot(int index) const { return slots + static_cast<int64_t>(index) * at.slot; }
  __device__ float* floats(int area) const {
    return reinterpret_cast<float*>(areas + area * at.area);
  }
  __device__ __half* halves(int area) const {
    return reinterpret_cast<__half*>(areas + area * at.area);
  }
};

constexpr float kLeastHalf = 5.9604645e-8f;  // 2^-24

__device__ inline void store2(float* p, float a, float b) {
  *reinterpret_cast<float2*>(p) = make_float2(a, b);
}

__device__ inline float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }

// The network at the trial codes of all slots: pre-activations and outputs of every layer.
__device__ __forceinline__ void forward(const MlpTileView& tile) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int k = net.latent;
  const auto& first = net.layers[0];
  float* x = tile.floats(0);
  for (int j = threadIdx.x; j < first.stride; j += kMlpThreads) {
    const float bias = first.bias[j];
    for (int begin = 0; begin < at.images; begin += 4) {
      float sum[4] = {bias, bias, bias, bias};
      for (int c = 0; c < k; ++c) {
        const float w = first.columns[c * first.stride + j];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int slot = min(begin + i, at.images - 1);
          sum[i] = fmaf(w, tile.trial[slot * k + c], sum[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (begin + i >= at.images) break;
        const float h = activate(first.activation, sum[i]);
        float* mine = tile.slot(begin + i);
        mine[at.pre[0] + j] = sum[i];
        mine[at.value[0] + j] = h;
        x[(begin + i) * float_row(first.stride) + j] = h;
      }
    }
  }
  __syncthreads();
  for (int l = 1; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const bool last = l + 1 == net.count;
    float* y = tile.floats(l % 2);
    const int y_stride = float_row(layer.stride);
    float_product(
        tile.floats((l + 1) % 2), float_row(layer.inputs), layer.rows, layer.inputs, layer.stride,
        at.images, [&](int, int column) { return load2(layer.bias + column); },
        [&](int row, int column, float v0, float v1, float2 bias) {
          if (row >= at.images) return;
          v0 += bias.x;
          v1 += bias.y;
          const float h0 = activate(layer.activation, v0);
          const float h1 = activate(layer.activation, v1);
          float* mine = tile.slot(row);
          store2(mine + at.pre[l] + column, v0, v1);
          store2(mine + at.value[l] + column, h0, h1);
          if (!last) store2(y + row * y_stride + column, h0, h1);
        });
    __syncthreads();
  }
}

// One warp: f at the trial of a slot.
__device__ inline double objective(const MlpTileView& tile, const MlpData& data, int slot,
                                   long long image) {
  const auto& net = tile.net;
  const int lane = threadIdx.x % 32, p = net.outputs;
  const float* out = tile.slot(slot) + tile.at.value[net.count - 1];
  const float* trial = tile.trial + slot * net.latent;
  double total = 0;
#pragma unroll 8
  for (int j = lane; j < p; j += 32) {
    const float w = data.weight_scalar ? data.weight[image] : data.weight[image * p + j];
    const float s = data.scale == nullptr ? 1.0f : data.scale[image * data.scale_stride + j];
    const float r = data.target[image * p + j] - s * out[j];
    total += static_cast<double>(r) * (w * r);
  }
  for (int c = lane; c < net.latent; c += 32) total += static_cast<double>(trial[c]) * trial[c];
  return 0.5 * group_sum<32>(total) + (data.constant == nullptr ? 0.0 : data.constant[image]);
}

// Replaces pre-activation and output of a neuron, given df/dh, by f' and by the weight that its
// tangents f' A get in the Hessian, df/dh f'' / f'^2; returns df/da. Below the least number of
// float16 a slope leaves nothing of its tangents, and its square would not divide: no weight.
__device__ inline float settle(Activation kind, float pull, float& pre, float& value) {
  const Derivatives d = derivatives(kind, pre, value);
  pre = d.slope;
  value = fabsf(d.slope) < kLeastHalf ? 0.0f : pull * (d.bend / d.slope) / d.slope;
  return pull * d.slope;
}

// Slopes and Hessian weights of every layer of the accepted slots, and their gradients.
__device__ __forceinline__ void backward(const MlpTileView& tile, const MlpData& data,
                                         const long long* images, const int* accepted, int count) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int k = net.latent, last = net.count - 1, p = net.outputs;
  const auto& top = net.layers[last];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = warp; row < count; row += kMlpWarps) {
    const long long image = images[accepted[row]];
    float* mine = tile.slot(accepted[row]);
    float* x = tile.floats(last % 2) + row * float_row(top.stride);
    // Reads in fours ahead of the writes, which the compiler may not move them past.
    for (int begin = lane; begin < top.stride; begin += 128) {
      float pull[4], precision[4], pre[4], value[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        pull[i] = precision[i] = pre[i] = value[i] = 0.0f;
        if (j >= p) continue;
        const float w = data.weight_scalar ? data.weight[image] : data.weight[image * p + j];
        const float s = data.scale == nullptr ? 1.0f : data.scale[image * data.scale_stride + j];
        pre[i] = mine[at.pre[last] + j];
        value[i] = mine[at.value[last] + j];
        pull[i] = -s * w * (data.target[image * p + j] - s * value[i]);
        precision[i] = s * s * w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = begin + 32 * i;
        if (j >= top.stride) continue;
        x[j] = settle(top.activation, pull[i], pre[i], value[i]);
        mine[at.precision + j] = precision[i];
        mine[at.pre[last] + j] = pre[i];
        mine[at.value[last] + j] = value[i];
      }
    }
  }
  __syncthreads();
  for (int l = last; l > 0; --l) {
    const auto& layer = net.layers[l];
    const auto& below = net.layers[l - 1];
    float* y = tile.floats((l + 1) % 2);
    const int y_stride = float_row(below.stride);
    float_product(
        tile.floats(l % 2), float_row(layer.stride), layer.columns, layer.stride, layer.inputs,
        count,
        [&](int row, int column) {
          const float* mine = tile.slot(accepted[min(row, count - 1)]) + column;
          const float2 pre = load2(mine + at.pre[l - 1]);
          const float2 value = load2(mine + at.value[l - 1]);
          return make_float4(pre.x, pre.y, value.x, value.y);
        },
        [&](int row, int column, float v0, float v1, float4 here) {
          if (row >= count) return;
          float* mine = tile.slot(accepted[row]);
          v0 = settle(below.activation, v0, here.x, here.z);
          v1 = settle(below.activation, v1, here.y, here.w);
          store2(mine + at.pre[l - 1] + column, here.x, here.y);
          store2(mine + at.value[l - 1] + column, here.z, here.w);
          store2(y + row * y_stride + column, v0, v1);
        });
    __syncthreads();
  }
  const auto& first = net.layers[0];
  for (int row = warp; row < count; row += kMlpWarps) {
    const float* x = tile.floats(0) + row * float_row(first.stride);
    const int slot = accepted[row];
    for (int c0 = 0; c0 < k; c0 += 8) {
      float sum[8] = {};
      for (int j = lane; j < first.stride; j += 32) {
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          if (c0 + c < k) sum[c] = fmaf(x[j], first.columns[(c0 + c) * first.stride + j], sum[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        for (int offset = 16; offset > 0; offset /= 2) {
          sum[c] += __shfl_xor_sync(0xffffffffu, sum[c], offset);
        }
        if (lane == 0 && c0 + c < k) {
          tile.gradient[slot * k + c0 + c] = tile.trial[slot * k + c0 + c] + sum[c];
        }
      }
    }
  }
  __syncthreads();
}

// Beyond the range of float16 cut off, NaN included: f of such an image is NaN as well.
__device__ inline void store_half2(__half* p, float a, float b) {
  const __half2 largest = __float2half2_rn(65504.0f);
  const __half2 pair = __floats2half2_rn(a, b);
  *reinterpret_cast<__half2*>(p) = __hmax2(__hmin2(pair, largest), __hneg2(largest));
}

// Eight float16 numbers of a row in shared memory.
__device__ inline void read_eight(const __half* p, float (&into)[8]) {
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    into[2 * i] = pair.x;
    into[2 * i + 1] = pair.y;
  }
}

// One warp: eight columns of an image's matrix sum_j T_aj weight_j T_bj, from `width` columns of
// its tangents [kRows][..] at `rows`; the columns belong to the tangents from `eight` on.
template <int kRows>
__device__ void gram(const __half* rows, int row_stride, int eight, const float* weight, int width,
                     float (&sum)[(kRows + 15) / 16][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll 2
  for (int q = 8 * t; q < width; q += 32) {
    float b[8], scaled[8];
    read_eight(rows + (eight + g) * row_stride + q, b);
    const float4 w0 = *reinterpret_cast<const float4*>(weight + q);
    const float4 w1 = *reinterpret_cast<const float4*>(weight + q + 4);
    const float w[8] = {w0.x, w0.y, w0.z, w0.w, w1.x, w1.y, w1.z, w1.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) scaled[i] = b[i] * w[i];
#pragma unroll
    for (int m = 0; m < (kRows + 15) / 16; ++m) {
      float top[8], low[8] = {};
      if constexpr (kRows == 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i) top[i] = b[i];
      } else {
        read_eight(rows + (16 * m + g) * row_stride + q, top);
        read_eight(rows + (16 * m + g + 8) * row_stride + q, low);
      }
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        mma_tf32(sum[m], __float_as_uint(top[i]), __float_as_uint(low[i]),
                 __float_as_uint(top[i + 1]), __float_as_uint(low[i + 1]), nearest_tf32(scaled[i]),
                 nearest_tf32(scaled[i + 1]));
      }
    }
  }
}

// Adds to (or, `fresh`, sets) eight columns of a k x k matrix in device memory.
template <int kTiles>
__device__ void add_columns(const float (&sum)[kTiles][4], int eight, int k, bool fresh,
                            float diagonal, float* matrix) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int a = 16 * m + g + (e / 2) * 8, b = eight + 2 * t + e % 2;
      if (a >= k || b >= k) continue;
      const float before = fresh ? (a == b ? diagonal : 0.0f) : matrix[a * k + b];
      matrix[a * k + b] = before + sum[m][e];
    }
  }
}

// One warp: what a piece of a layer's tangents adds to eight columns of a slot's two matrices.
// `weights` and `precisions` are null where the layer adds nothing to that matrix.
template <int kRows>
__device__ void add_piece(const __half* rows, int row_stride, int eight, const float* weights,
                          const float* precisions, int width, int k, bool first, bool fresh,
                          float* hessian, float* matrix) {
  constexpr int kTiles = (kRows + 15) / 16;
  if (weights != nullptr || first) {
    float sum[kTiles][4] = {};
    if (weights != nullptr) gram<kRows>(rows, row_stride, eight, weights, width, sum);
    add_columns<kTiles>(sum, eight, k, first, 0.0f, hessian);
  }
  if (precisions != nullptr) {
    float sum[kTiles][4] = {};
    gram<kRows>(rows, row_stride, eight, precisions, width, sum);
    add_columns<kTiles>(sum, eight, k, fresh, 1.0f, matrix);
  }
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
#pragma unroll
  for (int array = 0; array < 3; ++array) {
    if (array == 2 && !last) break;
    for (int image = warp; image < images; image += kMlpWarps) {
      const float* source = tile.slot(accepted[image]) + from[array] + column;
      float* target = tile.staged + array * at.staged + image * width;
#pragma unroll 4
      for (int j = 4 * lane; j < width; j += 128) {
        const float4 v = *reinterpret_cast<const float4*>(source + j);
        *reinterpret_cast<float4*>(target + j) =
            array == 0 ? times(v, scale) : times(times(v, unscale), unscale);
      }
    }
  }
}

// The Gauss-Newton matrices of the accepted slots, and what turns them into Hessians. Tangents in
// float16 are those of the network times its layers' scales so far, `scale`: whatever units weights
// and codes are in, they neither vanish nor overflow. As powers of two, scales round nothing.
__device__ __forceinline__ void second_derivatives(const MlpTileView& tile, const int* accepted,
                                                   int count, bool second_order) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int k = net.latent, kp = at.latent_rows, together = at.tangent_rows >> at.latent_shift;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
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
        stage(tile, accepted + begin, images, l, column, width, last, l == 0 ? scale : 1.0f,
              unscale);
        __syncthreads();
        if (l == 0) {
          // The first layer's tangents are the columns of its matrix.
          for (int row = warp; row < rows; row += kMlpWarps) {
            const int c = row & (kp - 1);
            const float* slope = slopes + (row >> at.latent_shift) * width;
            const float* w = layer.columns + min(c, k - 1) * layer.stride + column;
#pragma unroll 4
            for (int j = 2 * lane; j < width; j += 64) {
              const float2 s = load2(slope + j), v = c < k ? load2(w + j) : make_float2(0, 0);
              store_half2(out + row * out_stride + j, v.x * s.x, v.y * s.y);
            }
          }
        } else {
          half_product(
              in, in_stride, layer.half, layer.inputs, column, column + width, rows,
              [&](int row, int j) {
                return load2(slopes + (min(row, rows - 1) >> at.latent_shift) * width + j - column);
              },
              [&](int row, int j, float v0, float v1, float2 slope) {
                if (row >= rows) return;
                store_half2(out + row * out_stride + j - column, v0 * slope.x, v1 * slope.y);
              });
        }
        __syncthreads();
        // A warp has eight columns of one image's matrices, always the same.
        if (8 * warp < rows) {
          const int image = 8 * warp >> at.latent_shift, eight = 8 * warp & (kp - 1);
          const __half* mine = out + image * kp * out_stride;
          float* slot = tile.slot(accepted[begin + image]);
          const bool bent = second_order && bends(layer.activation);
          const auto add = [&](auto latent_rows) {
            add_piece<latent_rows.value>(
                mine, out_stride, eight, bent ? weights + image * width : nullptr,
                last ? precisions + image * width : nullptr, width, k, l == 0 && column == 0,
                column == 0, slot + at.hessian, slot + at.matrix);
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
        // What is staged, and the last layer's piece, are written anew next.
        __syncthreads();
      }
    }
  }
}

}  // namespace jpmap
