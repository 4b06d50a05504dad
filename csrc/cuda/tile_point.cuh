// Points of J1 by a tile: G at the codes of the slots that weigh, the best x or A^T y, and J1.
#pragma once

#include "cuda/joint_point.cuh"
#include "cuda/tile_joint.cuh"

namespace jpmap {

// Whether a slot's candidate is x = A^T y.
__device__ __forceinline__ bool published(const TileTask& held) {
  const bool again = held.phase == TilePhase::kBegin || held.phase == TilePhase::kRemake;
  return again && held.published;
}

// Where G of up to sixteen slots stands: rows of an area, or where `forward` has left it.
struct DecodedRows {
  const float* area;  // null for the latter
  int stride;

  __device__ const float* row(const TileJoint& joint, int row, int slot) const {
    if (area != nullptr) return area + row * stride;
    return joint.tile().slot(slot) + joint.run.at.value[joint.run.decoder.count - 1];
  }
};

// G at the trial codes of the slots, from the last layer that `forward` has made of it. Ends behind
// a barrier.
__device__ __forceinline__ DecodedRows decode(const TileJoint& joint, const int* slots, int rows,
                                              int& area) {
  const MlpTileView& tile = joint.tile();
  const ForwardNetwork& decoder = joint.run.decoder;
  const int stride = float_row(joint.run.at.pixels);
  int made = joint.run.known;
  area = 0;
  if (made == decoder.count) return {nullptr, stride};
  if (made > 0) {
    const int width = decoder.layers[made].inputs;
    for (int row = 0; row < rows; ++row) {
      const float* value = tile.slot(slots[row]) + joint.run.at.value[made - 1];
      float* to = tile.floats(area) + row * float_row(width);
      for (int j = threadIdx.x; j < width; j += kMlpThreads) to[j] = value[j];
    }
  } else {
    const ForwardLayer& layer = decoder.layers[0];
    const int k = tile.net.latent;
    for (int j = threadIdx.x; j < layer.stride; j += kMlpThreads) {
      for (int row = 0; row < rows; ++row) {
        const float* code = joint.trial(slots[row]);
        float a = layer.bias[j];
        for (int c = 0; c < k; ++c) a = fmaf(layer.rows[j * k + c], code[c], a);
        tile.floats(area)[row * float_row(layer.stride) + j] = activate(layer.activation, a);
      }
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
  const bool first = held.phase == TilePhase::kBegin, given = published(held);
  // Reads in fours ahead of the writes, which the compiler may not move them past.
  for (int begin = threadIdx.x % 32; begin < joint.run.at.pixels; begin += 128) {
    float found[4], here[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = begin + 32 * i;
      const bool inside = j < in.pixels;
      here[i] = j < joint.run.at.pixels ? g[j] : 0.0f;
      const float before = first || !inside ? 0.0f : old[j];
      found[i] = inside ? update_pixel(in, tie, image, j, here[i], before, given, sums) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = begin + 32 * i;
      if (j >= joint.run.at.pixels) break;
      x[j] = found[i];
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
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, p = tile.net.outputs;
  float *whole = tile.floats(area), *measured = tile.floats(area ^ 1);
  for (int row = warp; row < rows; row += kMlpWarps) {
    const int slot = slots[row];
    const bool given = published(joint.tasks[slot]);
    const float* g = from.row(joint, row, slot);
    const float* y = in.y + joint.own.images[slot] * in.pixels;
    float *to = whole + row * float_row(joint.run.at.pixels), *decoded = joint.decoded(slot, 1);
    for (int j = lane; j < joint.run.at.pixels; j += 32) {
      const float here = g[j];
      decoded[j] = here;
      to[j] = !given ? here : j < in.pixels ? y[j] : 0.0f;
    }
  }
  __syncthreads();  // opened
  multiply(whole, map.rows, map.inputs, map.stride, measured);
  __syncthreads();  // multiplied
  for (int row = warp; row < rows; row += kMlpWarps) {
    const int slot = slots[row];
    const int64_t image = joint.own.images[slot];
    const bool given = published(joint.tasks[slot]);
    const float noise = noise_of(in, image);
    float* mine = measured + row * float_row(map.stride);
    double sum = 0;
    for (int j = lane; j < map.stride; j += 32) {
      mine[j] = j < p ? gain_of(in, noise, image, j, joint.run.data.target[image * p + j], mine[j],
                                given, sum)
                      : 0.0f;
    }
    sum = group_sum<32>(sum);
    if (lane == 0) joint.own.turn.data[row] = sum;
  }
  __syncthreads();  // divided
  multiply(measured, map.columns, map.stride, map.inputs, whole);
  __syncthreads();  // multiplied
  return whole;
}

// A warp a slot: its candidate for A = U H from what the gains add, and what it adds to the sums.
__device__ __forceinline__ void project_slot(const TileJoint& joint, int row, int slot,
                                             const float* added, double (&sums)[kPointSums]) {
  const JointInput& in = joint.run.input;
  const TileTask& held = joint.tasks[slot];
  const float *old = joint.x(slot, 0), *decoded = joint.decoded(slot, 1);
  const float* y = in.y + joint.own.images[slot] * in.pixels;
  float* x = joint.x(slot, 1);
  const bool first = held.phase == TilePhase::kBegin, given = published(held);
  for (int j = threadIdx.x % 32; j < joint.run.at.pixels; j += 32) {
    float found = 0.0f;
    if (j < in.pixels) {
      found = given ? y[j] : decoded[j] + added[row * float_row(joint.run.at.pixels) + j];
      add_pixel(found, decoded[j], first ? 0.0f : old[j], sums);
    }
    x[j] = found;
  }
  if (threadIdx.x % 32 == 0) sums[0] = joint.own.turn.data[row];
}

}  // namespace jpmap
