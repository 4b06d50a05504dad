// A point of J1 by a cluster: G at a code, the best x, J1, the gap, and how far it is from the
// state.
#pragma once

#include "cuda/cluster_joint.cuh"

#ifdef JPMAP_HAS_CLUSTERS
namespace jpmap {
namespace clusters {

// Own pixels of x for a diagonal A, as cuda/x_update.cu, and what they add to the sums.
__device__ __forceinline__ void update_own(const JointBlock& joint, int64_t image, bool published,
                                           double (&sums)[kPixelSums]) {
  const JointInput& in = joint.input;
  const float *decoded = joint.memory(joint.at.found_decoded), *old = joint.memory(joint.at.x);
  float* found = joint.memory(joint.at.found_x);
  const double s = in.sigma[image], beta = in.beta[image];
  const bool tied = isinf(beta);
  const float noise = static_cast<float>(beta * s * s);
  for (int i = threadIdx.x; i < joint.at.own; i += kBlockThreads) {
    const int j = joint.block.rank * joint.at.own + i;
    if (j >= in.pixels) {
      found[i] = 0.0f;
      continue;
    }
    const float y = in.y[image * in.pixels + j], g = decoded[i];
    const float m = in.mask == nullptr ? 1.0f : in.mask[image * in.mask_stride + j];
    float x, d;
    if (published) {
      x = m * y;
      d = x - g;
      const float r = fmaf(-m, x, y);
      sums[0] += static_cast<double>(r) * r;
    } else {
      const float r = fmaf(-m, g, y);
      const float q = tied ? 1.0f : 1.0f / (m * m + noise);
      d = tied ? 0.0f : m * r * q;
      // Where the data outweigh the prior, G + d would cancel: take the weighted mean instead.
      x = !tied && m * m > noise ? (m * y + noise * g) * q : g + d;
      sums[0] += static_cast<double>(r) * (r * q);
    }
    sums[1] += static_cast<double>(d) * d;
    const double moved = x - old[i];
    sums[2] += moved * moved;
    found[i] = x;
  }
}

// The same for A = U H: a division in the coordinates of U, see jpmap_fast/operators/spectral.py.
__device__ __forceinline__ void project_own(const JointBlock& joint, int64_t image, bool published,
                                            double (&sums)[kPixelSums]) {
  const ClusterBlock& block = joint.block;
  const JointInput& in = joint.input;
  const auto& map = block.net.layers[block.last()];
  const int own = joint.at.own, p = block.net.outputs, measured = block.at.own[block.last()];
  const float *decoded = joint.memory(joint.at.found_decoded), *old = joint.memory(joint.at.x);
  float *found = joint.memory(joint.at.found_x), *mine = joint.memory(joint.at.mine);
  for (int i = threadIdx.x; published && i < own; i += kBlockThreads) {
    const int j = block.rank * own + i;
    found[i] = j < in.pixels ? in.y[image * in.pixels + j] : 0.0f;
  }
  __syncthreads();  // made
  const float* whole = pass_on(joint, published ? found : decoded, own);
  values_own(block.weights[block.last()], whole, map.inputs, measured,
             [&](int i, float value) { mine[i] = value; });
  __syncthreads();  // made
  const float noise = in.beta[image] * (in.sigma[image] * in.sigma[image]);
  for (int i = threadIdx.x; i < measured; i += kBlockThreads) {
    const int j = block.rank * measured + i;
    float gain = 0.0f;
    if (j < p) {
      const float value = in.values[image * in.values_stride + j];
      const float innovation = block.memory[block.at.target + i] - mine[i];
      gain = innovation / (value + noise);
      const float r = published ? innovation : innovation - value * gain;
      sums[0] += static_cast<double>(r) * r;
    }
    mine[i] = gain;
  }
  __syncthreads();  // made
  if (!published) {
    const float* gains = pass_on(joint, mine, measured);
    values_own(map.columns + static_cast<int64_t>(block.rank) * own * map.stride, gains, map.stride,
               own, [&](int i, float value) { found[i] = decoded[i] + value; });
    __syncthreads();  // made
  }
  for (int i = threadIdx.x; i < own; i += kBlockThreads) {
    if (block.rank * own + i >= in.pixels) {
      found[i] = 0.0f;
      continue;
    }
    const float d = found[i] - decoded[i];
    const double moved = found[i] - old[i];
    sums[1] += static_cast<double>(d) * d;
    sums[2] += moved * moved;
  }
}

// One thread: J1, gap and distance of the point from the sums over its pixels.
__device__ __forceinline__ void judge_point(const JointBlock& joint, const MlpData& data,
                                            int64_t image, bool published,
                                            const double (&sums)[kPixelSums]) {
  ClusterTask& task = joint.task;
  const JointInput& in = joint.input;
  const int k = joint.block.net.latent;
  const double s = in.sigma[image], beta = in.beta[image];
  double norm = 0, apart = 0;
  for (int c = 0; c < k; ++c) {
    const double z = task.code[c], moved = task.code[c] - task.z[c];
    norm += z * z;
    apart += moved * moved;
  }
  double value = 0.5 * norm;
  if (published || in.values != nullptr) {
    value += sums[0] / (2 * s * s) + (sums[1] == 0 ? 0 : 0.5 * beta * sums[1]);
    // What no x can explain; of a diagonal A all pixels are among the sums.
    if (in.values != nullptr && data.constant != nullptr) value += data.constant[image];
  } else {
    value += 0.5 * (isinf(beta) ? 1 / (s * s) : beta) * sums[0];
  }
  task.found_objective = static_cast<float>(value);
  task.found_gap = static_cast<float>(sums[1]);
  task.moved = sqrt(sums[2] / in.pixels) + sqrt(apart / k);
}

// The point of the task's code, with the best x or with x = A^T y. Ends behind a barrier.
__device__ __forceinline__ void weigh(const JointBlock& joint, const MlpData& data, int64_t image,
                                      bool published) {
  decode(joint);
  double sums[kPixelSums] = {};
  if (joint.input.values == nullptr) {
    update_own(joint, image, published, sums);
  } else {
    project_own(joint, image, published, sums);
  }
  pool(joint, sums);
  if (threadIdx.x == 0) judge_point(joint, data, image, published, sums);
  __syncthreads();  // told
}

// The point becomes the state. Without a barrier.
__device__ __forceinline__ void take_found(const JointBlock& joint, bool published) {
  ClusterTask& task = joint.task;
  for (int i = threadIdx.x; i < joint.at.own; i += kBlockThreads) {
    joint.memory(joint.at.x)[i] = joint.memory(joint.at.found_x)[i];
    joint.memory(joint.at.decoded)[i] = joint.memory(joint.at.found_decoded)[i];
  }
  if (threadIdx.x < kCodes) task.z[threadIdx.x] = task.code[threadIdx.x];
  if (threadIdx.x == 0) {
    task.objective = task.found_objective;
    task.gap = task.found_gap;
    task.published = published;
  }
}

}  // namespace clusters
}  // namespace jpmap
#endif
