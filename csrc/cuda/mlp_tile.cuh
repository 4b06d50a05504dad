// A block's tile of images: what it keeps where, who writes and reads it, and which barrier stands
// between. mlp_restore.cu runs the steps in this order; all barriers are __syncthreads:
//
//   barrier     after it
//   cleared     memory is zero, all slots are empty: once a launch
//   filled      empty slots have images from the queue, or stay empty
//   forward     once a layer: pre-activations and outputs
//   judged      f of all trials
//   chosen      the slots whose trial is accepted; without any, on to `advanced`
//   backward    once a layer, from the last: slopes and Hessian weights
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
  //   outputs, float [images][stride]: forward -> forward(l) -> forward of layer l + 1;
  //   df/da, float [accepted][stride]: settle_outputs, backward -> backward(l) -> backward of layer
  //   l - 1, add_gradients;
  //   tangents, half [rows][stride, or a piece]: first_tangents, next_tangents -> tangents ->
  //   next_tangents of layer l + 1, add_piece; next piece of the last layer: after `added`;
  //   the algebra of `advance`, double [k (k + 1)] a group of lanes, nobody else's.
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
  //   pre, value: forward -> forward(l) -> objective, settle_outputs, backward, the latter two in
  //   place -> backward(l) -> stage;
  //   precision: settle_outputs -> backward(last) -> stage;
  //   matrix, hessian: add_piece, eight columns by one warp, always the same -> added -> advance,
  //   write_systems.
  float* slots;

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
