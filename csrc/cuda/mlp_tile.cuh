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
//   staged      \ once a piece of a layer: its slopes and weights in shared memory,
//   tangents    | its tangents,
//   added       / and what they add to the matrices
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

// A block's view of its tile. Slots of images that are refused keep their gradient and matrices.
struct MlpTileView {
  const MlpNetwork& net;
  const MlpLayout& at;

  // Shared, two. Rows of layer l are in area l % 2, those of its neighbour, from or to which they
  // pass, in the other: the next writer of an area comes two layers on, after the barrier of the
  // layer that read it. In turn:
  //   outputs, float [images][stride]: forward -> forward(l) -> forward;
  //   df/da, float [accepted][stride]: backward -> backward(l) -> backward, add_gradients;
  //   tangents, half [tangent_rows][stride, or piece]: make_tangents -> tangents -> make_tangents
  //   of the next layer, add_to_matrices; of the last layer's piece the next writer is its next
  //   piece, after `added`; the algebra of `advance`, double [k (k + 1)] a group of lanes, which it
  //   alone reads.
  char* areas;

  // Shared, three times at.staged: slopes, Hessian weights, precisions [images][piece].
  // stage -> staged -> make_tangents, add_to_matrices; next writer: the next piece, after `added`.
  float* staged;

  // Shared [images][k]. The block's first thread of a slot or `advance` -> filled -> forward,
  // objective, add_gradients.
  float* trial;

  // Shared [images][k]. add_gradients -> gradient -> advance.
  float* gradient;

  // Device memory [images][at.slot], no other block's; mlp_layout.h says what a slot holds.
  // pre, value: forward -> forward(l) -> objective, backward, in place -> backward(l) -> stage.
  // precision: settle_outputs -> backward(last) -> stage.
  // matrix, hessian: add_to_matrices, eight columns by one warp, always the same -> added ->
  // advance.
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
