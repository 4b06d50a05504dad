// Second derivatives of a tile of images: tangents of every layer, and the matrices they add up to.
#pragma once

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

constexpr float kLeastHalf = 5.9604645e-8f;  // 2^-24

// What a neuron does to its tangents, and what squares of them past the activation weigh in the
// Hessian: df/dh f'' / f'^2. Below the least number of float16 a slope leaves nothing of the
// tangents, and its square would not divide: no weight.
struct Curved {
  float slope, weight;
};

__device__ inline Curved curved(Activation kind, float root, float pull) {
  const Derivatives d = derivatives_of(kind, root);
  const float weight = pull * bend_over_slope(kind, root, d) * inverse_of(d.slope);
  return {d.slope, fabsf(d.slope) < kLeastHalf ? 0.0f : weight};
}

// Columns [column, column + width) of layer l of `images` accepted slots, from where their
// tangents are made; 2^shift is how many slots there may be.
struct StagePart {
  const int* accepted;
  int images, shift, l, column, width;
  bool last;
};

// A warp's share of a part. An image has as many warps as there are for each, of which one takes
// 128 columns every so often.
struct Staging {
  // What is read of it ahead, while other work hides how long that takes. All of it is set each
  // time, or it would hold its registers through the products in between.
  static constexpr int kAhead = 4;
  float4 root[kAhead], pull[kAhead], precision[kAhead];

  static __device__ __forceinline__ int image(const StagePart& part) {
    return this_warp() & ((1 << part.shift) - 1);
  }
  static __device__ __forceinline__ int apart(const StagePart& part) {
    return (128 * kMlpWarps) >> part.shift;
  }
  static __device__ __forceinline__ int first(const StagePart& part) {
    return 128 * (this_warp() >> part.shift) + 4 * this_lane();
  }

  // From column `begin` on.
  __device__ __forceinline__ void read(const MlpTileView& tile, const StagePart& part, int begin) {
    const auto& at = tile.at;
    const bool mine = image(part) < part.images;
    const float* source = tile.slot(part.accepted[mine ? image(part) : 0]) + part.column;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = begin + apart(part) * i;
      const bool here = mine && j < part.width;
      const float4 none = {0.0f, 0.0f, 0.0f, 0.0f};
      root[i] = here ? load4(source + at.root[part.l] + j) : none;
      pull[i] = here ? load4(source + at.pull[part.l] + j) : none;
      precision[i] = here && part.last ? load4(source + at.precision + j) : none;
    }
  }
};

// A part to shared memory: slopes, Hessian weights and, of the last layer, precisions, one row of
// `width` an image; `ahead` has read the beginning. Slopes are multiplied by `scale`, and what
// weighs squares of tangents is by the square of `unscale`.
__device__ __forceinline__ void stage(const MlpTileView& tile, const StagePart& part,
                                      Staging& ahead, float scale, float unscale) {
  constexpr int kAhead = Staging::kAhead;
  if (Staging::image(part) >= part.images) return;
  const int apart = Staging::apart(part);
  float* target = tile.staged + Staging::image(part) * part.width;
  const int array = part.width << part.shift;
  with_activation(tile.net.layers[part.l].activation, [&](auto activation) {
    constexpr Activation kKind = decltype(activation)::value;
    for (int begin = Staging::first(part); begin < part.width; begin += kAhead * apart) {
      if (begin >= kAhead * apart) ahead.read(tile, part, begin);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = begin + apart * i;
        if (j >= part.width) break;
        const float4 root = ahead.root[i], pull = ahead.pull[i];
        const Curved c[4] = {curved(kKind, root.x, pull.x), curved(kKind, root.y, pull.y),
                             curved(kKind, root.z, pull.z), curved(kKind, root.w, pull.w)};
        store4(target + j, times({c[0].slope, c[1].slope, c[2].slope, c[3].slope}, scale));
        store4(
            target + array + j,
            times(times({c[0].weight, c[1].weight, c[2].weight, c[3].weight}, unscale), unscale));
        if (part.last) {
          store4(target + 2 * array + j, times(times(ahead.precision[i], unscale), unscale));
        }
      }
    }
  });
}

// Columns [column, column + width) of the first layer's tangents past the activation, of all
// `images`: the columns of its matrix times the slopes [images][width].
__device__ __forceinline__ void first_tangents(const MlpTileView& tile, const float* slopes,
                                               int images, int column, int width, __half* out,
                                               int out_stride) {
  const auto& layer = tile.net.layers[0];
  const int k = tile.net.latent, kp = tile.at.latent_rows;
  const int lane = this_lane(), warp = this_warp();
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

// A piece of a layer's tangents [rows][width], in shared memory, with what weighs their squares.
struct TangentPiece {
  const __half* tangents;
  int stride, width, rows;
  const float *weights, *precisions;  // [images][width]
  bool bent, last;                    // whether it adds to the Hessians, to the other matrices
  bool first, first_of_last;          // and is the first piece of all that do so
};

// A piece to the matrices of `slots`: a warp has eight columns of one of them, always the same.
__device__ __forceinline__ void add_to_matrices(const MlpTileView& tile, const int* slots,
                                                const TangentPiece& piece) {
  const int k = tile.net.latent, kp = tile.at.latent_rows;
  for (int job = this_warp(); job < 2 * kMlpTangentRows / 8; job += kMlpWarps) {
    const bool of_hessian = job < kMlpTangentRows / 8;
    const int mine = 8 * job % kMlpTangentRows, image = mine >> tile.at.latent_shift;
    if (mine >= piece.rows || !(of_hessian ? piece.bent || piece.first : piece.last)) continue;
    const float* by = (of_hessian ? piece.weights : piece.precisions) + image * piece.width;
    const PieceMatrix to{of_hessian && !piece.bent ? nullptr : by,
                         of_hessian ? piece.first : piece.first_of_last, of_hessian ? 0.0f : 1.0f,
                         tile.slot(slots[image]) + (of_hessian ? tile.at.hessian : tile.at.matrix)};
    const __half* own = piece.tangents + image * kp * piece.stride;
    const int eight = mine & (kp - 1);
    if (kp == 16) {
      add_piece<16>(own, piece.stride, eight, piece.width, k, to);
    } else if (kp == 32) {
      add_piece<32>(own, piece.stride, eight, piece.width, k, to);
    } else {
      add_piece<64>(own, piece.stride, eight, piece.width, k, to);
    }
  }
}

// A piece of images with eight tangents: a warp has both matrices of one image, in its lanes.
static_assert(kMlpTangentRows / 8 <= kMlpWarps);
__device__ __forceinline__ void add_to_pair(const TangentPiece& piece, float (&pair)[4]) {
  const int image = this_warp();
  if (8 * image >= piece.rows || !(piece.bent || piece.last)) return;
  gram_pair(piece.tangents + 8 * image * piece.stride, piece.stride,
            piece.bent ? piece.weights + image * piece.width : nullptr,
            piece.last ? piece.precisions + image * piece.width : nullptr, piece.width, pair);
}

// The Gauss-Newton matrices of the accepted slots, and what turns them into Hessians. Tangents in
// float16 are those of the network times its layers' scales so far, `scale`: whatever units weights
// and codes are in, they neither vanish nor overflow. As powers of two, scales round nothing.
__device__ __forceinline__ void second_derivatives(const MlpTileView& tile, const int* accepted,
                                                   int count, bool second_order) {
  const auto& net = tile.net;
  const auto& at = tile.at;
  const int kp = at.latent_rows, together = at.tangent_rows >> at.latent_shift;
  const int shift = __ffs(together) - 1;
  const int warp = this_warp();
  const float* slopes = tile.staged;
  const auto part_of = [&](int begin, int l, int column) {
    const bool last = l + 1 == net.count;
    const int stride = net.layers[l].stride, piece = last ? at.piece : stride;
    return StagePart{accepted + begin, min(together, count - begin), shift, l,
                     column,           min(piece, stride - column),  last};
  };
  Staging ahead;
  StagePart next = part_of(0, 0, 0);
  ahead.read(tile, next, Staging::first(next));
  for (int begin = 0; begin < count; begin += together) {
    const int images = min(together, count - begin), rows = images * kp;
    float scale = 1.0f, pair[4] = {};
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
        const int width = next.width;
        stage(tile, next, ahead, l == 0 ? scale : 1.0f / kSplitScale, unscale);
        __syncthreads();  // staged
        if (l == 0) {
          first_tangents(tile, slopes, images, column, width, out, out_stride);
        } else {
          next_tangents(tile, slopes, l, in, in_stride, rows, column, width, out, out_stride);
        }
        __syncthreads();  // tangents
        const bool more = column + piece < layer.stride;
        if (more || !last) {
          next = part_of(begin, more ? l : l + 1, more ? column + piece : 0);
        } else {
          next = part_of(begin + together < count ? begin + together : begin, 0, 0);
        }
        ahead.read(tile, next, Staging::first(next));
        const float *weights = slopes + (width << shift), *precisions = weights + (width << shift);
        const TangentPiece made{out,
                                out_stride,
                                width,
                                rows,
                                weights,
                                precisions,
                                second_order && bends(layer.activation),
                                last,
                                l == 0 && column == 0,
                                column == 0};
        if (kp == 8) {
          add_to_pair(made, pair);
        } else {
          add_to_matrices(tile, accepted + begin, made);
        }
        __syncthreads();  // added
      }
    }
    if (kp == 8 && warp < images) {
      float* slot = tile.slot(accepted[begin + warp]);
      set_pair(pair, net.latent, slot + at.hessian, slot + at.matrix);
    }
  }
  if (kp == 8) __syncthreads();  // set
}

}  // namespace jpmap
