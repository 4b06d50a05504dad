// Values and tangents of every layer at the trial code, and the residual.
#pragma once

#include "cuda/cluster_block.cuh"
#include "cuda/warp_sums.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// Layer 0, by every block whole: so few inputs are not worth gathering. Never the last layer:
// launch_clusters refuses a network of one.
__device__ __forceinline__ void first_layer(const ClusterBlock& block) {
  const auto& at = block.at;
  const auto& bottom = block.net.layers[0];
  const float* trial = block.state.trial;
  float* f = block.memory;
  float* x = f + at.gathered[0];
  for (int j = threadIdx.x; j < bottom.stride; j += kBlockThreads) {
    float a = f[at.bias[0] + j], w[kCodes];
#pragma unroll
    for (int c = 0; c < kCodes; ++c) {
      w[c] = f[at.first + c * bottom.stride + j];
      a = fmaf(w[c], trial[c], a);
    }
    const float h = activate(bottom.activation, a);
    const Derivatives d = derivatives(bottom.activation, a, h);
    const int mine = j - block.rank * at.own[0];
    const bool owned = mine >= 0 && mine < at.own[0];
    if (owned) {
      f[at.slope[0] + mine] = d.slope;
      f[at.bend[0] + mine] = d.bend;
    }
    x[j] = h;
#pragma unroll
    for (int c = 0; c < kCodes; ++c) {
      x[(1 + c) * bottom.stride + j] = d.slope * w[c];
      if (owned) f[at.tangents[0] + c * at.own[0] + mine] = w[c];
    }
  }
}

// Own rows of a layer [own][depth] times the gathered columns [9][depth]: products [own][9].
__device__ __forceinline__ void multiply_own(const float* w, const float* x, int depth, int own,
                                             float* products) {
  const int lane = threadIdx.x % 32;
  for (int begin = threadIdx.x / 32 * kRowsAtOnce; begin < own; begin += kWarps * kRowsAtOnce) {
    float sum[kRowsAtOnce * kColumns] = {};
#pragma unroll 2
    for (int k = 4 * lane; k < depth; k += 128) {
      float4 row[kRowsAtOnce];
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        row[r] = *reinterpret_cast<const float4*>(w + min(begin + r, own - 1) * depth + k);
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float4 v = *reinterpret_cast<const float4*>(x + c * depth + k);
#pragma unroll
        for (int r = 0; r < kRowsAtOnce; ++r) {
          float& s = sum[r * kColumns + c];
          s = fmaf(row[r].x, v.x, s);
          s = fmaf(row[r].y, v.y, s);
          s = fmaf(row[r].z, v.z, s);
          s = fmaf(row[r].w, v.w, s);
        }
      }
    }
    warp_sums(sum, [&](int i, float value) { products[begin * kColumns + i] = value; });
  }
}

// The products of own neurons become their values and, past the activation, tangents; slopes, bends
// and the tangents before it are kept.
__device__ __forceinline__ void activate_own(const ClusterBlock& block, int l) {
  const auto& at = block.at;
  const auto& layer = block.net.layers[l];
  float* f = block.memory;
  const int own = at.own[l];
  float* products = f + at.products;
  for (int i = threadIdx.x; i < own; i += kBlockThreads) {
    // Reads ahead of the writes, which the compiler may not move them past.
    float tangent[kCodes];
#pragma unroll
    for (int c = 0; c < kCodes; ++c) tangent[c] = products[i * kColumns + 1 + c];
    const float a = products[i * kColumns] + f[at.bias[l] + i];
    const float h = activate(layer.activation, a);
    const Derivatives d = derivatives(layer.activation, a, h);
    products[i * kColumns] = h;
    f[at.slope[l] + i] = d.slope;
    f[at.bend[l] + i] = d.bend;
#pragma unroll
    for (int c = 0; c < kCodes; ++c) {
      f[at.tangents[l] + c * own + i] = tangent[c];
      products[i * kColumns + 1 + c] = tangent[c] * d.slope;
    }
  }
}

// Values and tangents of own neurons to every block.
__device__ __forceinline__ void gather(const ClusterBlock& block, int l) {
  const auto& at = block.at;
  const int own = at.own[l], stride = block.net.layers[l].stride;
  const float* products = block.memory + at.products;
  float* target = block.memory + at.gathered[l % 2];
  for (int i = threadIdx.x; i < kBlocks * own; i += kBlockThreads) {
    float* there = block.cluster.map_shared_rank(target, i / own) + block.rank * own;
    const int neuron = i % own;
    float mine[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) mine[c] = products[neuron * kColumns + c];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) there[c * stride + neuron] = mine[c];
  }
}

// Own residuals: their part of f, and the cotangents and precisions of own outputs.
__device__ __forceinline__ void compare(const ClusterBlock& block) {
  const auto& at = block.at;
  float* f = block.memory;
  const int last = block.last();
  double total = 0;
  for (int i = threadIdx.x; i < at.own[last]; i += kBlockThreads) {
    const Measured m{f[at.target + i], f[at.weight + i], f[at.scale + i]};
    const float slope = f[at.slope[last] + i];
    const Compared found = jpmap::compare(m, block.state.law, f[at.products + i * kColumns]);
    total += found.term;
    f[at.pull[last] + i] = found.pull;
    f[at.carried + i] = found.pull * slope;
    f[at.precision + i] = found.precision;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, offset);
  }
  if (threadIdx.x % 32 == 0) block.state.tails[threadIdx.x / 32] = total;
}

__device__ __forceinline__ void forward(const ClusterBlock& block) {
  const auto& at = block.at;
  const int last = block.last();
  first_layer(block);
  __syncthreads();  // bottom
  for (int l = 1; l <= last; ++l) {
    multiply_own(block.weights[l], block.memory + at.gathered[(l + 1) % 2],
                 block.net.layers[l].inputs, at.own[l], block.memory + at.products);
    __syncthreads();  // multiplied
    activate_own(block, l);
    __syncthreads();  // activated
    if (l == last) break;
    gather(block, l);
    block.cluster.sync();  // gathered
  }
  compare(block);
  __syncthreads();  // compared
}

}  // namespace clusters
}  // namespace jpmap
#endif
