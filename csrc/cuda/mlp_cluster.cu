// Whole solves for a few images: lowest latency, not highest throughput.
//
// A cluster of sixteen blocks works on one image at a time. Block r holds the r-th part of every
// layer's neurons: their weights stay in its shared memory for the whole launch (those that do not
// fit are read from the L2 cache). A step is
//   values and tangents of every layer, gathered by all blocks layer by layer;
//   the way back, each layer's cotangents scattered to the blocks that own the neurons below;
//   one exchange of partial sums: f, gradient and the two matrices,
// after which every block does the same k x k algebra. Everything is float32 with sums in fixed
// order: the result of an image depends on nothing else.
#include <cooperative_groups.h>

#include <algorithm>

#include "cluster_support.h"
#include "cuda/mlp_cluster.cuh"

namespace jpmap {
namespace {

namespace cg = cooperative_groups;

constexpr int kBlocks = 16, kThreadsHere = 256, kWarps = kThreadsHere / 32;
constexpr int kCodes = 8;                            // latent dimensions, padded
constexpr int kColumns = 1 + kCodes;                 // the value and its tangents
constexpr int kEntries = kCodes * (kCodes + 1) / 2;  // of a symmetric matrix
constexpr int kSums = 2 + kCodes + 2 * kEntries;     // f as two words, gradient, two matrices
constexpr int kRowsAtOnce = 4, kRowsBack = 4;

// Offsets in floats of a block's shared memory.
struct ClusterLayout {
  int first;                // W_0^T, whole
  int weights[kMaxLayers];  // this block's rows, or -1: in device memory
  int own[kMaxLayers];      // neurons a block owns
  int slope[kMaxLayers], bend[kMaxLayers], pull[kMaxLayers];  // of own neurons
  int tangents[kMaxLayers];                                   // pre-activation, [8][own]
  int gathered[2];                                            // [9][stride], of even and odd layers
  int received[2];                                            // [16][own], of even and odd layers
  int bias[kMaxLayers];                                       // of own neurons; of layer 0, all
  int target, weight, scale;                                  // of own outputs
  int carried, precision;                                     // [own] of the widest, of the last
  int products;                                               // [own][9] of the widest
  int partial, exchanged;                                     // sums of this block, of all [16]
  int jobs;                                                   // [8][36] partial matrices
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

// Sums kCount values over the lanes of a warp, a few of the sums ending in each lane: those with
// index first, first + 1, ... below first + count.
template <int kCount>
struct ScatteredSums {
  static constexpr int kHalf = (kCount + 1) / 2;

  template <class Use>
  static __device__ __forceinline__ void run(const float (&value)[kCount], int offset, int first,
                                             int count, const Use& use) {
    if (offset == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < count) use(first + i, value[i]);
      }
      return;
    }
    const bool upper = threadIdx.x % 32 & offset;
    float mine[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float high = kHalf + i < kCount ? value[kHalf + i] : 0.0f;
      const float given = __shfl_xor_sync(0xffffffffu, upper ? value[i] : high, offset);
      mine[i] = (upper ? high : value[i]) + given;
    }
    ScatteredSums<kHalf>::run(mine, offset / 2, upper ? first + kHalf : first,
                              upper ? count - kHalf : min(count, kHalf), use);
  }
};
template <>
struct ScatteredSums<1> {
  template <class Use>
  static __device__ __forceinline__ void run(const float (&value)[1], int offset, int first,
                                             int count, const Use& use) {
    float sum = value[0];
    for (; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (count > 0) use(first, sum);
  }
};

template <int kCount, class Use>
__device__ __forceinline__ void warp_sums(const float (&value)[kCount], const Use& use) {
  ScatteredSums<kCount>::run(value, 16, 0, kCount, use);
}

// Own rows of a layer times the gathered columns: products [own][9].
__device__ void multiply_own(const float* w, const float* x, int depth, int own, float* products) {
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

// Adds sum_i weight_i rows_ai rows_bi over up to 32 neurons to a job's matrix: one warp.
__device__ void gram_own(const float* rows, int stride, const float* first_weight,
                         const float* second_weight, int count, float* job) {
  const int lane = threadIdx.x % 32;
  float a[kCodes], sum[kEntries];
  float weight = lane < count ? first_weight[lane] : 0.0f;
  if (second_weight != nullptr && lane < count) weight *= second_weight[lane];
#pragma unroll
  for (int c = 0; c < kCodes; ++c) a[c] = lane < count ? rows[c * stride + lane] : 0.0f;
#pragma unroll
  for (int i = 0, e = 0; i < kCodes; ++i) {
#pragma unroll
    for (int j = 0; j <= i; ++j, ++e) sum[e] = weight * a[i] * a[j];
  }
  warp_sums(sum, [&](int e, float value) { job[e] += value; });
}

__global__ void __launch_bounds__(kThreadsHere, 1)
    cluster_kernel(const __grid_constant__ MlpNetwork net, const __grid_constant__ ClusterLayout at,
                   const MlpData data, const MlpSettings settings, const MlpResults out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900  // clusters begin there
  extern __shared__ __align__(128) float f[];
  __shared__ MlpSlot slot;
  __shared__ long long image;
  __shared__ double scratch[kCodes], tails[kWarps];
  __shared__ float z[kCodes], trial[kCodes], gradient[kCodes];
  __shared__ float matrix[kCodes * kCodes], hessian[kCodes * kCodes];
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank()), thread = threadIdx.x;
  const int lane = thread % 32, warp = thread / 32, k = net.latent, last = net.count - 1;
  const auto& bottom = net.layers[0];

  if (settings.active != nullptr) {
    bool any = false;
    for (int64_t i = thread; i < data.batch; i += kThreadsHere) any = any || settings.active[i];
    if (!__syncthreads_or(any)) {
      for (int64_t i = thread; blockIdx.x == 0 && i < data.batch; i += kThreadsHere) {
        leave_out(out, data.start, i, k);
      }
      return;
    }
  }
  for (int i = thread; i < kCodes * bottom.stride; i += kThreadsHere) {
    f[at.first + i] = i < k * bottom.stride ? bottom.columns[i] : 0.0f;
  }
  for (int i = thread; i < bottom.stride; i += kThreadsHere) f[at.bias[0] + i] = bottom.bias[i];
  const float* weights[kMaxLayers];
  for (int l = 1; l < net.count; ++l) {
    const int size = at.own[l] * net.layers[l].inputs;
    const float* source = net.layers[l].rows + static_cast<int64_t>(rank) * size;
    for (int i = thread; i < at.own[l]; i += kThreadsHere) {
      f[at.bias[l] + i] = net.layers[l].bias[rank * at.own[l] + i];
    }
    weights[l] = source;
    if (at.weights[l] < 0) continue;
#pragma unroll 8
    for (int i = 4 * thread; i < size; i += 4 * kThreadsHere) {
      *reinterpret_cast<float4*>(f + at.weights[l] + i) =
          __ldg(reinterpret_cast<const float4*>(source + i));
    }
    weights[l] = f + at.weights[l];
  }
  // Blocks may write to each other only once all of them run.
  cluster.sync();
  const int clusters = gridDim.x / kBlocks;
  for (int64_t next = blockIdx.x / kBlocks; next < data.batch; next += clusters) {
    if (settings.active != nullptr && !settings.active[next]) {
      if (rank == 0 && thread == 0) leave_out(out, data.start, next, k);
      continue;
    }
    __syncthreads();
    // Outputs that only pad the last layer get weight 0.
    for (int i = thread; i < at.own[last]; i += kThreadsHere) {
      const int64_t j = rank * at.own[last] + i, p = net.outputs;
      const bool real = j < p;
      f[at.target + i] = real ? data.target[next * p + j] : 0.0f;
      f[at.weight + i] = real ? data.weight[data.weight_scalar ? next : next * p + j] : 0.0f;
      f[at.scale + i] =
          real && data.scale != nullptr ? data.scale[next * data.scale_stride + j] : 1.0f;
    }
    if (thread == 0) {
      image = next;
      slot.begin();
    }
    if (thread < kCodes) trial[thread] = thread < k ? data.start[next * k + thread] : 0.0f;
    __syncthreads();
    while (image >= 0) {
      // Layer 0, by every block whole.
      float* x = f + at.gathered[0];
      for (int j = thread; j < bottom.stride; j += kThreadsHere) {
        float a = f[at.bias[0] + j];
#pragma unroll
        for (int c = 0; c < kCodes; ++c) a = fmaf(f[at.first + c * bottom.stride + j], trial[c], a);
        const float h = activate(bottom.activation, a);
        const Derivatives d = derivatives(bottom.activation, a, h);
        const int mine = j - rank * at.own[0];
        const bool owned = mine >= 0 && mine < at.own[0];
        if (owned) {
          f[at.slope[0] + mine] = d.slope;
          f[at.bend[0] + mine] = d.bend;
        }
        if (last > 0) x[j] = h;
#pragma unroll
        for (int c = 0; c < kCodes; ++c) {
          const float w = f[at.first + c * bottom.stride + j];
          if (last > 0) x[(1 + c) * bottom.stride + j] = d.slope * w;
          if (owned) f[at.tangents[0] + c * at.own[0] + mine] = w;
        }
        if (last == 0 && owned) f[at.products + mine * kColumns] = h;
      }
      __syncthreads();
      for (int l = 1; l <= last; ++l) {
        const auto& layer = net.layers[l];
        const int own = at.own[l];
        float* products = f + at.products;
        multiply_own(weights[l], f + at.gathered[(l + 1) % 2], layer.inputs, own, products);
        __syncthreads();
        // A neuron's value and slope, then its tangents, each to where they are needed.
        for (int i = thread; i < own; i += kThreadsHere) {
          const float a = products[i * kColumns] + f[at.bias[l] + i];
          const float h = activate(layer.activation, a);
          const Derivatives d = derivatives(layer.activation, a, h);
          products[i * kColumns] = h;
          f[at.slope[l] + i] = d.slope;
          f[at.bend[l] + i] = d.bend;
#pragma unroll
          for (int c = 0; c < kCodes; ++c) {
            f[at.tangents[l] + c * own + i] = products[i * kColumns + 1 + c];
            products[i * kColumns + 1 + c] *= d.slope;
          }
        }
        __syncthreads();
        if (l == last) break;
        float* target = f + at.gathered[l % 2];
        for (int i = thread; i < kBlocks * own; i += kThreadsHere) {
          float* there = cluster.map_shared_rank(target, i / own) + rank * own;
          const int neuron = i % own;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            there[c * layer.stride + neuron] = products[neuron * kColumns + c];
          }
        }
        cluster.sync();
      }

      // Residual of own outputs.
      double total = 0;
      for (int i = thread; i < at.own[last]; i += kThreadsHere) {
        const float w = f[at.weight + i], s = f[at.scale + i];
        const float r = f[at.target + i] - s * f[at.products + i * kColumns];
        total += static_cast<double>(r) * (w * r);
        f[at.pull[last] + i] = -s * w * r;
        f[at.precision + i] = s * s * w;
      }
      for (int offset = 16; offset > 0; offset /= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, offset);
      }
      if (lane == 0) tails[warp] = total;
      __syncthreads();

      // The way back.
      for (int l = last; l > 0; --l) {
        const int own = at.own[l], below = at.own[l - 1], depth = net.layers[l].inputs;
        for (int i = thread; i < own; i += kThreadsHere) {
          f[at.carried + i] = f[at.pull[l] + i] * f[at.slope[l] + i];
        }
        __syncthreads();
        // Two columns a thread: layers are padded to multiples of 32, so both have one owner.
        float* received = f + at.received[(l - 1) % 2];
        const float* w = weights[l];
        const float* carried = f + at.carried;
        for (int j = 2 * thread; j < depth; j += 2 * kThreadsHere) {
          float2 sum = {0.0f, 0.0f};
          int i = 0;
          for (; i + kRowsBack <= own; i += kRowsBack) {
            float2 row[kRowsBack];
            float pull[kRowsBack];
#pragma unroll
            for (int u = 0; u < kRowsBack; ++u) {
              row[u] = *reinterpret_cast<const float2*>(w + (i + u) * depth + j);
              pull[u] = carried[i + u];
            }
#pragma unroll
            for (int u = 0; u < kRowsBack; ++u) {
              sum.x = fmaf(pull[u], row[u].x, sum.x);
              sum.y = fmaf(pull[u], row[u].y, sum.y);
            }
          }
          for (; i < own; ++i) {
            const float2 row = *reinterpret_cast<const float2*>(w + i * depth + j);
            sum.x = fmaf(carried[i], row.x, sum.x);
            sum.y = fmaf(carried[i], row.y, sum.y);
          }
          float* there = cluster.map_shared_rank(received, j / below) + rank * below + j % below;
          *reinterpret_cast<float2*>(there) = sum;
        }
        cluster.sync();
        for (int i = thread; i < below; i += kThreadsHere) {
          float sum = 0.0f;
#pragma unroll
          for (int from = 0; from < kBlocks; ++from) sum += received[from * below + i];
          f[at.pull[l - 1] + i] = sum;
        }
        __syncthreads();
      }

      // This block's part of f, gradient and matrices.
      float* partial = f + at.partial;
      for (int i = thread; i < kWarps * kEntries; i += kThreadsHere) f[at.jobs + i] = 0.0f;
      if (thread == 0) {
        double sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += tails[w];
        const float high = static_cast<float>(sum);
        partial[0] = high;
        partial[1] = static_cast<float>(sum - high);
      }
      for (int i = thread; i < at.own[last] * kCodes; i += kThreadsHere) {
        // The last layer's tangents past the activation, for the Gauss-Newton matrix.
        const int neuron = i % at.own[last];
        f[at.products + i] = f[at.tangents[last] + i] * f[at.slope[last] + neuron];
      }
      __syncthreads();
      int turn = 0;
      for (int l = 0; l <= last; ++l) {
        for (int begin = 0; begin < at.own[l]; begin += 32) {
          const int count = min(32, at.own[l] - begin);
          if (settings.second_order && bends(net.layers[l].activation) && turn++ % 4 == warp) {
            gram_own(f + at.tangents[l] + begin, at.own[l], f + at.pull[l] + begin,
                     f + at.bend[l] + begin, count, f + at.jobs + warp * kEntries);
          }
          if (l == last && begin / 32 % 3 + 4 == warp) {
            gram_own(f + at.products + begin, at.own[l], f + at.precision + begin, nullptr, count,
                     f + at.jobs + warp * kEntries);
          }
        }
      }
      if (warp == 7) {
        float sum[kCodes] = {};
        for (int i = lane; i < at.own[0]; i += 32) {
          const float carried = f[at.pull[0] + i] * f[at.slope[0] + i];
#pragma unroll
          for (int c = 0; c < kCodes; ++c) {
            sum[c] = fmaf(carried, f[at.tangents[0] + c * at.own[0] + i], sum[c]);
          }
        }
        warp_sums(sum, [&](int c, float value) { partial[2 + c] = value; });
      }
      __syncthreads();
      if (thread < 2 * kEntries) {
        const int begin = thread < kEntries ? 0 : 4, entry = thread % kEntries;
        float sum = 0.0f;
        for (int w = begin; w < begin + (begin == 0 ? 4 : 3); ++w) {
          sum += f[at.jobs + w * kEntries + entry];
        }
        partial[2 + kCodes + thread] = sum;
      }
      __syncthreads();
      for (int i = thread; i < kBlocks * kSums; i += kThreadsHere) {
        cluster.map_shared_rank(f + at.exchanged, i / kSums)[rank * kSums + i % kSums] =
            partial[i % kSums];
      }
      cluster.sync();
      if (thread < kSums) {
        double sum = 0;
        for (int from = 0; from < kBlocks; ++from) sum += f[at.exchanged + from * kSums + thread];
        if (thread < 2) {
          tails[thread] = sum;
        } else if (thread < 2 + kCodes) {
          gradient[thread - 2] = trial[thread - 2] + static_cast<float>(sum);
        } else {
          const int e = (thread - 2 - kCodes) % kEntries;
          int a = 0, b = e;
          while (b > a) b -= ++a;
          const bool model = thread >= 2 + kCodes + kEntries;
          if (a < k) {
            (model ? matrix : hessian)[a * k + b] =
                static_cast<float>(sum) + (model && a == b ? 1.0f : 0.0f);
          }
        }
      }
      __syncthreads();
      if (thread < kCodes) {
        const LaneGroup<kCodes> group;
        double norm = thread < k ? static_cast<double>(trial[thread]) * trial[thread] : 0.0;
        norm = group.sum(norm);
        if (thread == 0) {
          slot.trial = 0.5 * (tails[0] + tails[1] + norm) +
                       (data.constant == nullptr ? 0.0 : data.constant[next]);
        }
        group.sync();
        // A refused trial leaves the system of the point before.
        const bool taken = slot.fresh || slot.trial < slot.value;
        __shared__ float kept_gradient[kCodes], kept[2][kCodes * kCodes];
        if (taken) {
          if (thread < k) kept_gradient[thread] = gradient[thread];
          for (int i = thread; i < k * k; i += kCodes) {
            kept[0][i] = matrix[i];
            kept[1][i] = hessian[i];
          }
        }
        group.sync();
        advance<kCodes>({&slot, &image, z, trial, kept_gradient, kept[0], kept[1], k, rank == 0},
                        settings, out, scratch);
      }
      __syncthreads();
    }
  }
  // No block may leave while another could still write to its shared memory.
  cluster.sync();
#else
  __trap();  // never launched; were it, no result may look like one
#endif
}

// Whether an error says that the device has no room for clusters of this size.
bool too_large(cudaError_t error) {
  return error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration ||
         error == cudaErrorInvalidClusterSize || error == cudaErrorNotSupported;
}

// The clusters that run at the same time, 0 where there can be none.
int resident_clusters(const char* op, cudaLaunchConfig_t& config, int room) {
  cudaFuncAttributes code{};
  check_cuda(op, "look up the cluster kernel", cudaFuncGetAttributes(&code, cluster_kernel));
  if (!holds_clusters(code.ptxVersion, code.binaryVersion)) return 0;
  allow_shared_memory(op, cluster_kernel, room);
  int resident = 0;
  cudaError_t error =
      cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveClusters(&resident, cluster_kernel, &config);
  }
  if (too_large(error)) {
    cudaGetLastError();  // the answer to our question, and nobody else's error
    return 0;
  }
  check_cuda(op, "count the clusters that fit", error);
  return resident;
}

}  // namespace

bool launch_clusters(const char* op, const MlpNetwork& net, const MlpData& data,
                     const MlpSettings& settings, const MlpResults& out, int room,
                     cudaStream_t stream) {
  // With a single layer nothing would keep a step's exchange apart from the next one's.
  if (net.latent > kCodes || net.count < 2) return false;
  const ClusterLayout at(net, room);
  const int bytes = 4 * at.floats;
  if (bytes > room) return false;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kBlocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(kThreadsHere);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const int resident = resident_clusters(op, config, room);
  if (resident == 0) return false;
  config.gridDim =
      dim3(static_cast<unsigned int>(kBlocks * std::min<int64_t>(resident, data.batch)));
  check_cuda(op, "launch clusters",
             cudaLaunchKernelEx(&config, cluster_kernel, net, at, data, settings, out));
  return true;
}

}  // namespace jpmap
