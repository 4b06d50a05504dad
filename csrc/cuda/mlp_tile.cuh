// A block's tile of images: what it keeps where, who writes and reads it, and which barrier stands
// between. mlp_restore.cu runs the steps in this order; all barriers are __syncthreads:
//
//   barrier     after it
//   cleared     memory is zero, all slots are empty: once a launch
//   filled      empty slots have images from the queue, or stay empty
//   summed      + once a layer, of the last once a piece: its sums over the inputs,
//   forward     | pre-activations and outputs
//   judged      f of all trials
//   chosen      the slots whose trial is accepted; without any, on to `advanced`
//   backward    once a layer, from the last, of this once a piece: slopes and Hessian weights
//   pulled      after each but that of the first layer: df/dh below
//   gradient    gradients
//   staged      + once a piece of a layer: its slopes and weights in shared memory,
//   tangents    | its tangents,
//   added       + and what they add to the matrices
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
  //   outputs in their place, split rows: -> forward(l) -> forward of layer l + 1;
  //   df/dh, float [accepted][stride]: backward -> pulled -> settle_rows, which puts df/da in their
  //   place, as does settle_outputs, split rows but of layer 0: -> backward(l) -> backward of layer
  //   l - 1, add_gradients;
  //   tangents, half [rows][stride, or a piece]: first_tangents, next_tangents -> tangents ->
  //   next_tangents of layer l + 1, add_piece; next piece of the last layer: after `added`;
  //   the algebra of `advance`, double [k (k + 1)] a warp, nobody else's.
  char* areas;

  // Shared, three times at.staged: slopes, Hessian weights, precisions [images][width].
  // stage -> staged -> first_tangents, next_tangents, add_piece; the next piece is staged after
  // `added`.
  float* staged;

  // Shared [images][k]. fill -> filled, advance -> advanced -> forward, objective, add_gradients,
  // advance.
  float* trial;

  // Shared [images][k]. add_gradients -> gradient -> advance, write_systems.
  float* gradient;

  // Device memory [images][at.slot], no other block's; mlp_layout.h says what a slot holds.
  //   pre, value: activate_rows -> forward(l) -> objective, settle_outputs, settle_rows, the latter
  //   two in place -> backward(l) -> stage;
  //   precision: settle_outputs -> backward(last) -> stage;
  //   matrix, hessian: add_piece, eight columns by one warp, always the same -> added -> advance,
  //   write_systems.
  float* slots;

  // Shared [images]: the 2^-e of split rows, which the warp of a row writes where it splits it:
  // activate_rows, settle_outputs, settle_rows -> forward(l), backward(l) -> the next product;
  // those of tile_joint.cuh likewise, between these.
  float* factors;

  __device__ float* slot(int index) const { return slots + static_cast<int64_t>(index) * at.slot; }
  __device__ float* floats(int area) const {
    return reinterpret_cast<float*>(areas + area * at.area);
  }
  __device__ __half* halves(int area) const {
    return reinterpret_cast<__half*>(areas + area * at.area);
  }
};

__device__ inline void store2(float* p, float a, float b) {
  *reinterpret_cast<float2*>(p) = make_float2(a, b);
}

__device__ inline float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }

}  // namespace jpmap
