// A block's tile of images: what it keeps where, who writes and reads it, and which barrier stands
// between. mlp_restore.cu runs the steps in this order; all barriers are __syncthreads:
//
//   barrier     after it
//   cleared     memory is zero, all slots are empty: once a launch
//   filled      empty slots have images from the queue, or stay empty
//   summed      + once a layer but the first, of the last once a piece: its sums over the inputs,
//   forward     + once a layer, likewise: roots and outputs; what the latter are off the images
//   chosen      f of all trials, the slots whose trial is accepted; without any, on to `advanced`
//   backward    once a layer, from the last, of this once a piece: df/da
//   pulled      after each but that of the first layer: df/dh below
//   gradient    gradients
//   staged      + once a piece of a layer: its slopes and weights in shared memory,
//   tangents    | its tangents,
//   added       + and what they add to the matrices,
//   set         | which for up to eight latent dimensions stay in registers until then
//   advanced    next trials, or -1 in `images`
//
// The notes below read "writer -> barrier -> reader". What a step reads last lies before
// `advanced`, what the next one writes first after it: only what is written twice in a step says
// what keeps the next writer off.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/mlp_network.cuh"
#include "mlp_layout.h"

namespace jpmap {

// A block's view of its tile. A slot whose trial is refused keeps its gradient and matrices.
struct MlpTileView {
  const MlpNetwork& net;
  const MlpLayout& at;

  // Shared, two. Rows of layer l are in area l % 2; those of its neighbour, which they come from,
  // in the other. The next writer of an area comes two layers on, after the barrier of the layer
  // that read it. In turn:
  //   sums over the inputs, float [images][stride]: forward -> summed -> activate_rows, which puts
  //   outputs in their place, split rows: -> forward(l) -> forward of layer l + 1; of the last
  //   layer as they are, for compare_rows of the same warp; df/dh, float [accepted][stride]:
  //   backward -> pulled -> settle_rows, which puts df/da in their place, split rows but of layer
  //   0: -> backward(l) -> backward of layer l - 1, add_gradients; tangents, half [rows][stride, or
  //   a piece]: first_tangents, next_tangents -> tangents -> next_tangents of layer l + 1,
  //   add_piece; next piece of the last layer: after `added`; the algebra of `advance`, double [k
  //   (k + 1)] a warp, nobody else's.
  char* areas;

  // Shared: slopes, Hessian weights, precisions [images][width], of as many images as there may be.
  // stage -> staged -> first_tangents, next_tangents, add_piece or gram_pair; the next piece is
  // staged after `added`.
  float* staged;

  // Shared [images][k]. fill -> filled, advance -> advanced -> forward, choose, add_gradients,
  // advance.
  float* trial;

  // Shared [images][k]. add_gradients -> gradient -> advance, write_systems.
  float* gradient;

  // Device memory [images][at.slot], no other block's; mlp_layout.h says what a slot holds.
  //   root: activate_rows -> forward(l) -> settle_rows, stage, write_systems, decode of
  //   tile_point.cuh;
  //   pull: of the last layer compare_rows -> forward(last) -> settle_rows, stage; of others
  //   settle_rows -> backward(l) -> stage;
  //   precision: compare_rows -> forward(last) -> stage;
  //   matrix, hessian: add_piece, eight columns by one warp, always the same -> added, or set_pair
  //   -> set -> advance, write_systems.
  float* slots;

  // Shared [images]: the 2^-e of split rows, which the warp of a row writes where it splits it:
  // activate_rows, settle_rows -> forward(l), backward(l) -> the next product; those of
  // tile_joint.cuh likewise, between these.
  float* factors;

  // Shared [images]: twice the data terms of f. compare_rows, the warp of a row, which adds up the
  // pieces -> forward(last) -> choose.
  double* misfits;

  __device__ float* slot(int index) const { return slots + static_cast<int64_t>(index) * at.slot; }
  __device__ float* floats(int area) const {
    return reinterpret_cast<float*>(areas + (area == 0 ? 0 : at.area[0]));
  }
  __device__ __half* halves(int area) const {
    return reinterpret_cast<__half*>(areas + (area == 0 ? 0 : at.area[0]));
  }
};

__device__ inline void store2(float* p, float a, float b) {
  *reinterpret_cast<float2*>(p) = make_float2(a, b);
}

__device__ inline float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }

// Of what no kernel writes.
__device__ inline float2 load2_constant(const float* p) {
  return __ldg(reinterpret_cast<const float2*>(p));
}

__device__ inline void store4(float* p, const float4& v) { *reinterpret_cast<float4*>(p) = v; }

__device__ inline float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }

__device__ inline float4 times(float4 v, float factor) {
  return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

}  // namespace jpmap
