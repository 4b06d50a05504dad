// Points of J1 by a tile: G at the codes of the slots that weigh, the best x or A^T y, and J1.
#pragma once

#include "cuda/joint_point.cuh"
#include "cuda/tile_joint.cuh"

namespace jpmap {

// Whether a slot's candidate is x = A^T y.
__device__ __forceinline__ bool published(const TileTask& held) {
  return stands_alone(held) && held.published;
}

// Where G of up to sixteen slots stands: rows of an area, or where `forward` has left it.
struct DecodedRows {
  const float* area;  // null for the latter
  int stride;

  __device__ const float* row(const TileJoint& joint, int row, int slot) const {
    if (area != nullptr) return area + row * stride;
    return joint.tile().slot(slot) + joint.run.at.root[joint.run.decoder.count - 1];
  }
};

// G at the trial codes of the slots, from the last layer that `forward` has made of it. Ends behind
// a barrier.
__device__ __forceinline__ DecodedRows decode(const TileJoint& joint, const int* slots, int rows,
                                              int& area) {
  const MlpTileView& tile = joint.tile();
  const ForwardNetwork& decoder = joint.run.decoder;
  const int stride = split_stride(joint.run.at.pixels);
  int made = joint.run.known;
  area = 0;
  const auto known = [&](int row, int j) {
    const float2 root = load2(tile.slot(slots[row]) + joint.run.at.root[made - 1] + j);
    const Activation kind = decoder.layers[made - 1].activation;
    return make_float2(output_of(kind, root.x), output_of(kind, root.y));
  };
  if (made == decoder.count) {
    if (keeps_output(decoder.layers[made - 1].activation)) return {nullptr, stride};
    for (int row = this_warp(); row < rows; row += kMlpWarps) {
      for (int j = 2 * this_lane(); j < joint.run.at.pixels; j += 64) {
        const float2 here = known(row, j);
        store2(tile.floats(area) + row * stride + j, here.x, here.y);
      }
    }
    __syncthreads();  // gathered
    return {tile.floats(area), stride};
  }
  if (made > 0) {
    gather(tile, rows, decoder.layers[made].inputs, area, known);
  } else {
    const ForwardLayer& layer = decoder.layers[0];
    const int k = tile.net.latent;
    const auto value = [&](int row, int j) {
      float a = layer.bias[j];
      for (int c = 0; c < k; ++c) a = fmaf(layer.rows[j * k + c], joint.trial(slots[row])[c], a);
      return activate(layer.activation, a);
    };
    const auto pair = [&](int row, int j) { return make_float2(value(row, j), value(row, j + 1)); };
    if (decoder.count == 1) {
      for (int row = this_warp(); row < rows; row += kMlpWarps) {
        float* mine = tile.floats(area) + row * stride;
        for (int j = this_lane(); j < layer.stride; j += 32) mine[j] = value(row, j);
      }
    } else {
      gather(tile, rows, layer.stride, area, pair);
    }
    made = 1;
  }
  __syncthreads();  // gathered
  area = pass(tile, decoder, made, rows, area);
  return {tile.floats(area), stride};
}

// A warp a slot: its candidate for a diagonal A, and what that adds to the sums.
__device__ __forceinline__ void update_slot(const TileJoint& joint, int slot, const float* g,
                                            double (&sums)[kPointSums]) {
  const JointInput& in = joint.run.input;
  const TileTask& held = joint.tasks[slot];
  const int64_t image = joint.own.images[slot];
  const float* old = joint.x(slot, 0);
  float *x = joint.x(slot, 1), *decoded = joint.decoded(slot, 1);
  const Tie tie = tie_of(in, image);
  const bool first = stands_alone(held), given = published(held);
  // Reads ahead of what waits for them and of the writes, which the compiler may not move them
  // past.
  constexpr int kAhead = 8;
  for (int begin = this_lane(); begin < joint.run.at.pixels; begin += 32 * kAhead) {
    Pixel pixel[kAhead];
    float here[kAhead], before[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = begin + 32 * i;
      const bool inside = j < in.pixels;
      pixel[i] = inside ? pixel_of(in, image, j) : Pixel{0.0f, 0.0f};
      here[i] = j < joint.run.at.pixels ? g[j] : 0.0f;
      before[i] = first || !inside ? 0.0f : old[j];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = begin + 32 * i;
      if (j >= joint.run.at.pixels) break;
      x[j] = j < in.pixels ? update_pixel(tie, pixel[i], here[i], before[i], given, sums) : 0.0f;
      decoded[j] = here[i];
    }
  }
}

// One block: the candidates' x for A = U H but for what pixels add to the sums, which their warps
// do next. Ends behind a barrier; where those are that A^T y has not been given to, in an area.
__device__ __forceinline__ const float* project(const TileJoint& joint, const int* slots, int rows,
                                                DecodedRows from, int area) {
  const MlpTileView& tile = joint.tile();
  const JointInput& in = joint.run.input;
  const auto& map = tile.net.layers[tile.net.count - 1];
  const int lane = this_lane(), warp = this_warp(), p = tile.net.outputs;
  const int pixels = joint.run.at.pixels;
  // In place where G is in that area: a lane has its own numbers.
  gather(tile, rows, pixels, area, [&](int row, int j) {
    const int slot = slots[row];
    const float2 here = load2(from.row(joint, row, slot) + j);
    store2(joint.decoded(slot, 1) + j, here.x, here.y);
    if (!published(joint.tasks[slot])) return here;
    const float* y = in.y + joint.own.images[slot] * in.pixels;
    return make_float2(j < in.pixels ? y[j] : 0.0f, j + 1 < in.pixels ? y[j + 1] : 0.0f);
  });
  __syncthreads();  // opened
  multiply(tile, map.split_rows, unscale_of(map), map.inputs, map.stride, rows, area);
  __syncthreads();  // multiplied
  for (int row = warp; row < rows; row += kMlpWarps) {
    const int slot = slots[row];
    const int64_t image = joint.own.images[slot];
    const bool given = published(joint.tasks[slot]);
    const float noise = noise_of(in, image);
    float* mine = tile.floats(area ^ 1) + row * split_stride(map.stride);
    double sum = 0;
    float largest = 0;
    const float *targets = joint.run.data.target + image * p,
                *values = in.values + image * in.values_stride;
    constexpr int kAhead = 4;
    for (int begin = lane; begin < map.stride; begin += 32 * kAhead) {
      float target[kAhead], value[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = begin + 32 * i;
        target[i] = j < p ? targets[j] : 0.0f;
        value[i] = j < p ? values[j] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = begin + 32 * i;
        if (j >= map.stride) break;
        mine[j] = j < p ? gain_of(value[i], noise, target[i], mine[j], given, sum) : 0.0f;
        largest = fmaxf(largest, fabsf(mine[j]));
      }
    }
    sum = group_sum<32>(sum);
    const float factor = split_row(mine, map.stride, largest);
    if (lane == 0) {
      joint.own.turn.data[row] = sum;
      tile.factors[row] = factor;
    }
  }
  __syncthreads();  // divided
  multiply(tile, map.split_columns, unscale_of(map), map.stride, map.inputs, rows, area ^ 1);
  __syncthreads();  // multiplied
  return tile.floats(area);
}

// A warp a slot: its candidate for A = U H from what the gains add, and what it adds to the sums.
__device__ __forceinline__ void project_slot(const TileJoint& joint, int row, int slot,
                                             const float* added, double (&sums)[kPointSums]) {
  const JointInput& in = joint.run.input;
  const TileTask& held = joint.tasks[slot];
  const float *old = joint.x(slot, 0), *decoded = joint.decoded(slot, 1);
  const float* y = in.y + joint.own.images[slot] * in.pixels;
  float* x = joint.x(slot, 1);
  const bool first = stands_alone(held), given = published(held);
  added += row * split_stride(joint.run.at.pixels);
  constexpr int kAhead = 8;
  for (int begin = this_lane(); begin < joint.run.at.pixels; begin += 32 * kAhead) {
    float found[kAhead], here[kAhead], before[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = begin + 32 * i;
      const bool inside = j < in.pixels;
      here[i] = inside ? decoded[j] : 0.0f;
      before[i] = first || !inside ? 0.0f : old[j];
      found[i] = !inside ? 0.0f : given ? y[j] : added[j];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = begin + 32 * i;
      if (j >= joint.run.at.pixels) break;
      const float pixel = given ? found[i] : here[i] + found[i];
      if (j < in.pixels) add_pixel(pixel, here[i], before[i], sums);
      x[j] = pixel;
    }
  }
  if (this_lane() == 0) sums[0] = joint.own.turn.data[row];
}

}  // namespace jpmap
