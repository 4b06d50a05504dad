// What the blocks of a cluster keep in shared memory, who writes and reads it, and which barrier
// stands between. csrc/cuda/mlp_cluster.cu runs the steps in this order:
//
//   barrier     kind     after it
//   loaded      cluster  weights and biases are there; all blocks run and may be written to
//   fetched     block    once a descent: measurements and starting point are there
//   bottom      block    layer 0 is done, by every block whole
//   multiplied  block    + layers 1 .. last: products of own neurons,
//   activated   block    | their values, slopes and tangents,
//   gathered    cluster  + which all blocks have (not of the last layer)
//   compared    block    own residuals are there
//   scattered   cluster  + layers last .. 1: parts of the cotangents below at their owners; of a
//                        descent's last trial once, without any,
//   pulled      block    + and their sums
//   prepared    block    what the matrices need
//   added       block    matrices by warp, gradient
//   totalled    block    sums of this block
//   exchanged   cluster  sums of all blocks
//   spread      block    f, gradient and matrices
//   advanced    block    the next trial, or -1 in `image`
//   left        cluster  nobody writes to this block any more: it may end
//
// `block` is __syncthreads. `cluster` waits for all sixteen blocks: no other kind stands between a
// write to another block's memory and its reader there, or a reader and the next such write. The
// notes below read "writer -> barrier -> reader". What a step reads last lies before `advanced`,
// what the next one writes first after it: only what is written twice in a step, or by others,
// says what keeps the next writer off.
#pragma once

#include <algorithm>

#include "cuda/mlp_data.cuh"
#include "cuda/mlp_network.cuh"
#include "cuda/mlp_solve.cuh"

namespace jpmap {
namespace clusters {

constexpr int kBlocks = 16, kBlockThreads = 256, kWarps = kBlockThreads / 32;
constexpr int kCodes = 8;                            // latent dimensions, padded
constexpr int kColumns = 1 + kCodes;                 // the value and its tangents
constexpr int kEntries = kCodes * (kCodes + 1) / 2;  // of a symmetric matrix
constexpr int kSums = 2 + kCodes + 2 * kEntries;     // f as two words, gradient, two matrices
constexpr int kRowsAtOnce = 4, kRowsBack = 4;

// Offsets in floats of a block's shared memory. A block owns as many neurons of a layer as the
// others, `own`, in the order of their ranks.
struct ClusterLayout {
  int own[kMaxLayers];

  // load_network -> loaded -> every step; nobody writes them again.
  int first;                // W_0^T, whole [8][stride]
  int weights[kMaxLayers];  // rows of own neurons [own][inputs], or -1: in device memory
  int bias[kMaxLayers];     // [own]; of layer 0, all

  // load_measurements -> fetched -> compare, which the thread that wrote an element alone reads.
  int target, weight, scale;  // of own outputs [own]

  // first_layer -> bottom, activate_own -> activated ->
  int slope[kMaxLayers];     // f' [own]: compare, sum_cotangents, prepare_sums
  int bend[kMaxLayers];      // f'' [own]: add_matrices
  int tangents[kMaxLayers];  // before the activation [8][own]: prepare_sums and both adds

  // Values and tangents of all neurons of even and of odd layers [9][stride].
  // Layer 0: first_layer -> bottom -> multiply_own of layer 1, in the block's own memory.
  // Layer l: gather, from every block -> gathered(l) -> multiply_own of layer l + 1.
  // Next writer: layer l + 2, after gathered(l + 1); the next step's, after exchanged.
  int gathered[2];

  // compare -> compared, sum_cotangents -> pulled ->
  int pull[kMaxLayers];  // df/dh of own neurons [own]: add_matrices

  // df/da of own neurons [own], of the widest layer. compare -> compared -> scatter_cotangents of
  // the last layer; sum_cotangents(l), after scattered(l + 1) -> pulled(l) -> scatter_cotangents of
  // layer l, of layer 0 add_gradient.
  int carried;

  // What each block adds to df/dh of own neurons, of even and of odd layers [16][own].
  // scatter_cotangents of layer l + 1, from every block -> scattered(l + 1) -> sum_cotangents.
  // Next writer: layer l - 1, after scattered(l); the next step's, after exchanged.
  int received[2];

  // compare -> compared -> add_matrices.
  int precision;  // s^2 w of own outputs [own]

  // [own][9] of the widest layer, and rows beyond, which multiply_own fills and nobody reads.
  // multiply_own -> multiplied -> activate_own, in place -> activated -> gather or compare.
  // Next writers: multiply_own of the next layer, after `gathered`; prepare_sums, the last layer's
  // tangents past the activation [8][own], after `compared` -> prepared -> add_matrices.
  int products;

  // prepare_sums, zeros -> prepared -> add_matrices, each warp its own -> added -> total_sums.
  int jobs;  // [8 warps][36] partial matrices

  // f: prepare_sums -> prepared, gradient: add_gradient -> added, matrices: total_sums -> totalled
  // -> exchange.
  int partial;  // sums of this block [82]

  // exchange, from every block -> exchanged -> spread_sums. Next writer: the next step's, after
  // scattered(1), which a network of a single layer does not have: such a one is refused.
  int exchanged;  // sums of all blocks [16][82]

  int floats;

  ClusterLayout(const MlpNetwork& net, int room) {
    int at = 0;
    const auto take = [&](int count) {
      const int begin = at;
      at += (count + 3) / 4 * 4;
      return begin;
    };
    int widest = 0, wide[2] = {0, 0}, most[2] = {0, 0};
    first = take(kCodes * net.layers[0].stride);
    for (int l = 0; l < net.count; ++l) {
      const int stride = net.layers[l].stride;
      own[l] = stride / kBlocks;
      widest = std::max(widest, own[l]);
      if (l + 1 < net.count) wide[l % 2] = std::max(wide[l % 2], stride);
      most[l % 2] = std::max(most[l % 2], own[l]);
      bias[l] = take(l == 0 ? stride : own[l]);
      slope[l] = take(own[l]);
      bend[l] = take(own[l]);
      pull[l] = take(own[l]);
      tangents[l] = take(kCodes * own[l]);
    }
    for (int p = 0; p < 2; ++p) {
      gathered[p] = take(kColumns * wide[p]);
      received[p] = take(kBlocks * most[p]);
    }
    carried = take(widest);
    target = take(own[net.count - 1]);
    weight = take(own[net.count - 1]);
    scale = take(own[net.count - 1]);
    precision = take(own[net.count - 1]);
    products = take(kColumns * (widest + kRowsAtOnce));
    partial = take(kSums);
    exchanged = take(kBlocks * kSums);
    jobs = take(kWarps * kEntries);
    for (int l = 1; l < net.count; ++l) {
      const int size = own[l] * net.layers[l].inputs;
      weights[l] = 4 * (at + size) <= room ? take(size) : -1;
    }
    floats = at;
  }
};

// The rest of a block's shared memory: one image's descent. Every block has the same numbers.
struct ClusterState {
  // begin_descent -> fetched, accept -> advanced -> every thread.
  long long image;      // -1 when it is finished
  float trial[kCodes];  // zeros beyond k

  // load_measurements -> fetched -> compare, accept.
  Law law;
  double constant;

  // compare, one a warp -> compared -> prepare_sums -> prepared;
  // spread_sums, the two words of f -> spread -> accept.
  double tails[kWarps];

  // Matrices have k columns; the lower triangle counts.
  struct System {
    float gradient[kCodes], matrix[kCodes * kCodes], hessian[kCodes * kCodes];

    __device__ MlpSystem of(int k) const { return {matrix, hessian, gradient, k}; }
  };

  // Of the accepted code, systems[kept], and of the trial, the other one.
  // spread_sums, the trial's -> spread -> accept.
  System systems[2];

  // begin_descent -> fetched, accept, which takes the trial's by flipping it -> advanced ->
  // spread_sums.
  int kept;

  // Of `accept`, whose warp keeps them from step to step and synchronises itself: the solve, which
  // begin_descent begins, and the accepted code. Whether the trial is the last one every thread
  // asks: accept -> advanced -> descend.
  MlpSlot slot;
  float z[kCodes];

  __device__ System& trial_system() { return systems[kept ^ 1]; }
};

}  // namespace clusters
}  // namespace jpmap
