// Outputs and objectives of a tile of images at their trial codes.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/mlp_data.cuh"
#include "cuda/mlp_tile.cuh"
#include "cuda/split_product.cuh"

namespace jpmap {

// A warp's rows of a tile: it, it + kMlpWarps, ...
constexpr int kRowsOfWarp = kMlpImages / kMlpWarps;

// A warp its rows: sums over the codes, of layer 0 without its bias, to the layer's area. The lane
// that writes a sum is the one that reads it.
__device__ __forceinline__ void first_sums(const MlpTileView& tile) {
  constexpr int kTogether = 8;
  const auto& first = tile.net.layers[0];
  const int k = tile.net.latent, images = tile.at.images, stride = split_stride(first.stride);
  const int lane = this_lane(), warp = this_warp();
  float* y = tile.floats(0) + warp * stride;
  if (warp >= images) return;
  for (int begin = 0; begin < k; begin += kTogether) {
    float code[kRowsOfWarp][kTogether];
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int row = min(warp + kMlpWarps * i, images - 1);
#pragma unroll
      for (int c = 0; c < kTogether; ++c) {
        code[i][c] = begin + c < k ? tile.trial[row * k + begin + c] : 0.0f;
      }
    }
#pragma unroll 2
    for (int j = 2 * lane; j < first.stride; j += 64) {
      float2 w[kTogether];
#pragma unroll
      for (int c = 0; c < kTogether; ++c) {
        w[c] = load2_constant(first.columns + min(begin + c, k - 1) * first.stride + j);
      }
#pragma unroll
      for (int i = 0; i < kRowsOfWarp; ++i) {
        float* to = y + kMlpWarps * i * stride + j;
        const bool mine = warp + kMlpWarps * i < images;
        float2 sum = begin > 0 && mine ? load2(to) : make_float2(0, 0);
#pragma unroll
        for (int c = 0; c < kTogether; ++c) {
          sum = make_float2(fmaf(w[c].x, code[i][c], sum.x), fmaf(w[c].y, code[i][c], sum.y));
        }
        if (mine) store2(to, sum.x, sum.y);
      }
    }
  }
}

// A warp its rows, two at a time: from the sums over the inputs of columns [column, column + width)
// of layer l, without the bias, roots and outputs, which are left in the sums' place, split where
// another layer follows.
__device__ __forceinline__ void activate_rows(const MlpTileView& tile, int l, int column,
                                              int width) {
  constexpr int kRows = 2;
  const auto& at = tile.at;
  const auto& layer = tile.net.layers[l];
  const int lane = this_lane(), stride = split_stride(width);
  const float* biases = layer.bias + column;
  with_activation(layer.activation, [&](auto activation) {
    constexpr Activation kKind = decltype(activation)::value;
#pragma unroll 1
    for (int row = this_warp(); row < at.images; row += kRows * kMlpWarps) {
      // Where there is no second row it is the first one again, of which nothing is written.
      const bool both = row + kMlpWarps < at.images;
      float* y = tile.floats(l % 2) + row * stride;
      float* roots = tile.slot(row) + at.root[l] + column;
      const int next_y = both ? kMlpWarps * stride : 0, next_root = both ? kMlpWarps * at.slot : 0;
      float largest[kRows] = {};
#pragma unroll 4
      for (int j = 2 * lane; j < width; j += 64) {
        const float2 bias = load2_constant(biases + j);
        float2 root[kRows], h[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const float2 sum = load2(y + next_y * i + j);
          const float2 a = make_float2(sum.x + bias.x, sum.y + bias.y);
          h[i] = make_float2(activate(kKind, a.x), activate(kKind, a.y));
          root[i] = keeps_output(kKind) ? h[i] : a;
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (i > 0 && !both) break;
          store2(roots + next_root * i + j, root[i].x, root[i].y);
          store2(y + next_y * i + j, h[i].x, h[i].y);
          largest[i] = fmaxf(largest[i], fmaxf(fabsf(h[i].x), fabsf(h[i].y)));
        }
      }
      if (l + 1 == tile.net.count) continue;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i > 0 && !both) break;
        const float factor = split_row(y + next_y * i, width, largest[i]);
        if (lane == 0) tile.factors[row + kMlpWarps * i] = factor;
      }
    }
  });
}

// A warp its rows, of which it has just left the outputs in the last layer's area, two at a time:
// what columns [column, column + width) add to the misfits of images that are there, df/dh and
// precisions.
template <bool kLaw>
__device__ __forceinline__ void compare_rows(const MlpTileView& tile, const MlpData& data,
                                             const long long* images, int column, int width) {
  constexpr int kRows = 2, kAhead = 4;
  const auto& at = tile.at;
  const int last = tile.net.count - 1, p = tile.net.outputs, stride = split_stride(width);
  const int lane = this_lane();
  __syncwarp();  // the other lanes' outputs are there
#pragma unroll 1
  for (int row = this_warp(); row < at.images; row += kRows * kMlpWarps) {
    long long image[kRows];
    Law law[kRows];
    double total[kRows] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int mine = row + kMlpWarps * i;
      image[i] = mine < at.images ? images[mine] : -1;
      law[i] = kLaw && image[i] >= 0 ? law_of(data, image[i]) : Law{};
      law[i].given = kLaw;  // as the compiler is to know
    }
    const float* out = tile.floats(last % 2) + row * stride;
    float* to = tile.slot(row) + column;
    for (int begin = lane; begin < width; begin += 32 * kAhead) {
      // Reads ahead of the writes, which the compiler may not move them past.
      Measured given[kRows][kAhead];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          const int j = column + begin + 32 * u;
          const bool there = image[i] >= 0 && begin + 32 * u < width && j < p;
          given[i][u] = there ? measured(data, image[i], p, j) : Measured{0.0f, 0.0f, 0.0f};
        }
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (image[i] < 0) continue;
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          const int j = begin + 32 * u;
          if (j >= width) break;
          Compared found{};
          if (column + j < p) {
            found = compare(given[i][u], law[i], out[kMlpWarps * i * stride + j]);
          }
          total[i] += found.term;
          float* mine = to + static_cast<int64_t>(kMlpWarps * i) * at.slot + j;
          mine[at.pull[last]] = found.pull;
          mine[at.precision] = found.precision;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (image[i] < 0) continue;
      const double sum = group_sum<32>(total[i]);
      double& misfit = tile.misfits[row + kMlpWarps * i];
      if (lane == 0) misfit = column == 0 ? sum : misfit + sum;
    }
  }
}

// The network at the trial codes of all slots: roots of every layer; and of the slots that have one
// of `images`, df/dh and precisions of its outputs, and misfits.
__device__ __forceinline__ void forward(const MlpTileView& tile, const MlpData& data,
                                        const long long* images) {
  const auto& net = tile.net;
  for (int l = 0; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const bool last = l + 1 == net.count;
    const int piece = last ? tile.at.piece : layer.stride;
    for (int column = 0; column < layer.stride; column += piece) {
      const int width = min(piece, layer.stride - column);
      if (l == 0) {
        first_sums(tile);
      } else {
        const __half* w = layer.split_rows + static_cast<int64_t>(column) * 2 * layer.inputs;
        split_product({tile.floats((l + 1) % 2), tile.factors, tile.floats(l % 2), w,
                       unscale_of(layer), split_stride(layer.inputs), split_stride(width),
                       16 * layer.inputs, layer.inputs, tile.at.images, false},
                      width);
        __syncthreads();  // summed
      }
      activate_rows(tile, l, column, width);
      if (last && data.law == nullptr) compare_rows<false>(tile, data, images, column, width);
      if (last && data.law != nullptr) compare_rows<true>(tile, data, images, column, width);
      __syncthreads();  // forward(l)
    }
  }
}

// One lane: f at the trial of a slot, once all its outputs have been compared.
__device__ inline double objective(const MlpTileView& tile, const MlpData& data, int slot,
                                   long long image) {
  const int k = tile.net.latent;
  double total = tile.misfits[slot];
  for (int c = 0; c < k; ++c) {
    const double z = tile.trial[slot * k + c];
    total += z * z;
  }
  return 0.5 * total + (data.constant == nullptr ? 0.0 : data.constant[image]);
}

}  // namespace jpmap
