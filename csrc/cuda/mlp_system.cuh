// Decode, residual and normal equations of a tile of images, by one block.
#pragma once

#include "cuda/damped_step.cuh"
#include "cuda/mlp_tile.cuh"

namespace jpmap {

struct MlpData {
  const float* start;      // [B][k]
  const float* target;     // [B][p]
  const float* weight;     // [B][p] or [B][1]
  const float* scale;      // [p] or [B][p], or null
  const double* constant;  // [B], or null
  int64_t batch, scale_stride;
  bool weight_scalar;
};

// The network at the trial codes of all slots, with slopes.
__device__ inline void forward(const MlpNetwork& net, const MlpLayout& at, float* f, int images) {
  const float* input = f + at.trial;
  int input_stride = at.code_stride;
  for (int l = 0; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    float* value = f + at.value[l];
    float* slope = f + at.slope[l];
    multiply(input, input_stride, layer.packed, layer.inputs, 0, layer.stride / kMlpPanel, images,
             [&](int row, int column, float sum) {
               const int i = row * layer.stride + column;
               activate(layer.activation, sum + layer.bias[column], value[i], slope[i]);
             });
    __syncthreads();
    input = value;
    input_stride = layer.stride;
  }
}

// One warp: f at the trial of a slot, and what the normal equations need of the residual.
__device__ inline double residual(const MlpNetwork& net, const MlpLayout& at, float* f,
                                  const MlpData& data, int slot, long long image) {
  const int lane = threadIdx.x % 32, last = net.layers[net.count - 1].stride, p = net.outputs;
  const float* out = f + at.value[net.count - 1] + slot * last;
  float* pull = f + at.pull + slot * last;
  float* curvature = f + at.curvature + slot * last;
  const float* trial = f + at.trial + slot * at.code_stride;
  double total = 0;
  for (int j = lane; j < last; j += 32) {
    if (j >= p) {
      pull[j] = curvature[j] = 0.0f;
      continue;
    }
    const float w = data.weight_scalar ? data.weight[image] : data.weight[image * p + j];
    const float s = data.scale == nullptr ? 1.0f : data.scale[image * data.scale_stride + j];
    const float r = data.target[image * p + j] - s * out[j];
    total += static_cast<double>(r) * (w * r);
    pull[j] = s * w * r;
    curvature[j] = s * s * w;
  }
  for (int c = lane; c < net.latent; c += 32) total += static_cast<double>(trial[c]) * trial[c];
  return 0.5 * warp_sum(total) + (data.constant == nullptr ? 0.0 : data.constant[image]);
}

// Adds columns [0, width) of the last layer's tangents to the systems of the accepted slots. A warp
// owns an entry of an image's gradient or matrix.
__device__ inline void accumulate(const MlpNetwork& net, const MlpLayout& at, double* d,
                                  const float* f, const float* rows, int row_stride, int column,
                                  int width, const int* accepted, int count) {
  const int lane = threadIdx.x % 32, k = net.latent, entries = k + k * (k + 1) / 2;
  const int last = net.layers[net.count - 1].stride;
  for (int item = threadIdx.x / 32; item < count * entries; item += kMlpWarps) {
    const int i = item / entries, entry = item % entries, slot = accepted[i];
    const float* mine = rows + i * k * row_stride;
    float sum = 0;
    if (entry < k) {
      const float* pull = f + at.pull + slot * last + column;
      for (int j = lane; j < width; j += 32) sum += mine[entry * row_stride + j] * pull[j];
    } else {
      int a = 0, b = entry - k;
      while (b > a) b -= ++a;
      const float* curvature = f + at.curvature + slot * last + column;
      for (int j = lane; j < width; j += 32) {
        sum += mine[a * row_stride + j] * curvature[j] * mine[b * row_stride + j];
      }
      for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
      if (lane == 0) {
        double* matrix = d + at.matrix + slot * k * k;
        matrix[a * k + b] += sum;
        if (a != b) matrix[b * k + a] += sum;
      }
      continue;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (lane == 0) d[at.gradient + slot * k + entry] -= sum;
  }
}

// Gradient z - J^T pull and matrix I + J^T diag(curvature) J of the accepted slots.
__device__ inline void normal_equations(const MlpNetwork& net, const MlpLayout& at, double* d,
                                        float* f, const int* accepted, int count) {
  const int k = net.latent, rows = count * k;
  for (int i = threadIdx.x; i < count * k * k; i += kMlpThreads) {
    const int slot = accepted[i / (k * k)], entry = i % (k * k);
    d[at.matrix + slot * k * k + entry] = entry / k == entry % k ? 1.0 : 0.0;
    if (entry < k) d[at.gradient + slot * k + entry] = f[at.trial + slot * at.code_stride + entry];
  }
  __syncthreads();
  for (int l = 0; l < net.count; ++l) {
    const auto& layer = net.layers[l];
    const bool last = l + 1 == net.count;
    const float* input = f + at.tangent[(l + 1) % 2];
    float* output = f + at.tangent[l % 2];
    const float* slope = f + at.slope[l];
    const int input_stride = l == 0 ? 0 : net.layers[l - 1].stride;
    // The last layer goes in pieces that fit, each added to the systems at once.
    const int piece = last ? min(layer.stride, at.tangent_stride) : layer.stride;
    for (int column = 0; column < layer.stride; column += piece) {
      const int width = min(piece, layer.stride - column);
      const auto store = [&](int row, int j, float value) {
        output[row * piece + j - column] = value * slope[accepted[row / k] * layer.stride + j];
      };
      if (l == 0) {
        // The first layer's tangents are the columns of its matrix.
        for (int i = threadIdx.x; i < rows * width; i += kMlpThreads) {
          const int row = i / width, j = column + i % width;
          store(row, j, layer.packed[(j / kMlpPanel * k + row % k) * kMlpPanel + j % kMlpPanel]);
        }
      } else {
        multiply(input, input_stride, layer.packed, layer.inputs, column / kMlpPanel,
                 (column + width) / kMlpPanel, rows, store);
      }
      __syncthreads();
      if (last) {
        accumulate(net, at, d, f, output, piece, column, width, accepted, count);
        __syncthreads();
      }
    }
  }
}

}  // namespace jpmap
