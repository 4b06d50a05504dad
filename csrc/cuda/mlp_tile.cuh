// A tile of images in the shared memory of one block, and the matrix products on it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "mlp_network.h"

namespace jpmap {

constexpr int kMlpThreads = 256, kMlpWarps = kMlpThreads / 32;
constexpr int kMlpPanel = 32;  // float32 columns of a packed panel: one a lane
constexpr int kMlpImages = 4;  // at most, a tile

struct MlpNetwork {
  struct Layer {
    const float* packed;  // [panels][inputs][32]
    const float* bias;    // [stride]
    int inputs, stride;   // stride: outputs, padded to whole panels
    Activation activation;
  };
  Layer layers[kMaxLayers];
  int count, latent, outputs;
};

// Where things stand in shared memory: doubles from the start, then floats, as offsets in each.
struct MlpLayout {
  int gradient, step, matrix, factor, doubles;
  int z, trial, code_stride;
  int value[kMaxLayers], slope[kMaxLayers], pull, curvature;
  int tangent[2], tangent_stride, floats;

  __host__ __device__ MlpLayout(const MlpNetwork& net, int images) {
    const int k = net.latent, last = net.layers[net.count - 1].stride;
    gradient = 0;
    step = gradient + images * k;
    matrix = step + images * k;
    factor = matrix + images * k * k;
    doubles = (factor + images * k * k + 1) / 2 * 2;
    code_stride = (k + 3) / 4 * 4;
    z = 0;
    trial = z + images * code_stride;
    int at = trial + images * code_stride;
    tangent_stride = kMlpPanel;
    for (int l = 0; l < net.count; ++l) {
      value[l] = at;
      slope[l] = at + images * net.layers[l].stride;
      at += 2 * images * net.layers[l].stride;
      if (l + 1 < net.count && net.layers[l].stride > tangent_stride) {
        tangent_stride = net.layers[l].stride;
      }
    }
    pull = at;
    curvature = pull + images * last;
    tangent[0] = curvature + images * last;
    tangent[1] = tangent[0] + images * k * tangent_stride;
    floats = tangent[1] + images * k * tangent_stride;
  }

  __host__ __device__ int64_t bytes() const {
    return 8 * static_cast<int64_t>(doubles) + 4 * static_cast<int64_t>(floats);
  }
};

__device__ inline void activate(Activation kind, float a, float& value, float& slope) {
  const auto sigmoid = [](float v) { return 1.0f / (1.0f + expf(-v)); };
  value = a;
  slope = 1.0f;
  switch (kind) {
    case Activation::kElu:
      value = a > 0 ? a : expm1f(a);
      slope = a > 0 ? 1.0f : value + 1.0f;
      break;
    case Activation::kRelu:
      value = a > 0 ? a : 0.0f;
      slope = a > 0 ? 1.0f : 0.0f;
      break;
    case Activation::kSilu: {
      const float s = sigmoid(a);
      value = a * s;
      slope = s + value * (1.0f - s);
      break;
    }
    case Activation::kSoftplus:
      value = fmaxf(a, 0.0f) + log1pf(expf(-fabsf(a)));
      slope = sigmoid(a);
      break;
    case Activation::kTanh:
      value = tanhf(a);
      slope = 1.0f - value * value;
      break;
    case Activation::kSigmoid:
      value = sigmoid(a);
      slope = value * (1.0f - value);
      break;
    case Activation::kIdentity:
      break;
  }
}

// One warp owns kRows rows and two panels, a lane two columns; weights stream from the L2 cache,
// rows from shared memory. Every element is one chain of multiply-adds over ascending k, whatever
// kRows is: a row's bits do not depend on its neighbours.
template <int kRows, class Epilogue>
__device__ void multiply_rows(const float* x, int x_stride, const float* packed, int depth,
                              int panel_begin, int panel_end, int rows, Epilogue epilogue) {
  const int lane = threadIdx.x % 32;
  const int pairs = (panel_end - panel_begin + 1) / 2, groups = (rows + kRows - 1) / kRows;
  for (int item = threadIdx.x / 32; item < pairs * groups; item += kMlpWarps) {
    const int first = item / pairs * kRows, left = panel_begin + 2 * (item % pairs);
    const int right = min(left + 1, panel_end - 1), valid = min(kRows, rows - first);
    const float* w0 = packed + static_cast<int64_t>(left) * depth * kMlpPanel + lane;
    const float* w1 = packed + static_cast<int64_t>(right) * depth * kMlpPanel + lane;
    const float* row[kRows];
    float sum[kRows][2];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row[r] = x + (first + min(r, valid - 1)) * x_stride;
      sum[r][0] = sum[r][1] = 0.0f;
    }
    // The weights of the next kAhead inputs are on their way while these are used: with few rows
    // there is little arithmetic to hide the cache's latency behind.
    constexpr int kAhead = kRows <= 8 ? 16 : kRows <= 16 ? 8 : 4;
    float next0[kAhead], next1[kAhead];
    const int strides = depth / kAhead;
    const auto fetch = [&](int begin) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        next0[i] = w0[(begin + i) * kMlpPanel];
        next1[i] = w1[(begin + i) * kMlpPanel];
      }
    };
    if (strides > 0) fetch(0);
    for (int q = 0; q < strides; ++q) {
      float now0[kAhead], now1[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        now0[i] = next0[i];
        now1[i] = next1[i];
      }
      if (q + 1 < strides) fetch(kAhead * (q + 1));
#pragma unroll
      for (int i = 0; i < kAhead; i += 4) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float4 v = *reinterpret_cast<const float4*>(row[r] + kAhead * q + i);
          sum[r][0] = fmaf(v.x, now0[i], sum[r][0]);
          sum[r][1] = fmaf(v.x, now1[i], sum[r][1]);
          sum[r][0] = fmaf(v.y, now0[i + 1], sum[r][0]);
          sum[r][1] = fmaf(v.y, now1[i + 1], sum[r][1]);
          sum[r][0] = fmaf(v.z, now0[i + 2], sum[r][0]);
          sum[r][1] = fmaf(v.z, now1[i + 2], sum[r][1]);
          sum[r][0] = fmaf(v.w, now0[i + 3], sum[r][0]);
          sum[r][1] = fmaf(v.w, now1[i + 3], sum[r][1]);
        }
      }
    }
    for (int k = kAhead * strides; k < depth; ++k) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        sum[r][0] = fmaf(row[r][k], w0[k * kMlpPanel], sum[r][0]);
        sum[r][1] = fmaf(row[r][k], w1[k * kMlpPanel], sum[r][1]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= valid) break;
      epilogue(first + r, left * kMlpPanel + lane, sum[r][0]);
      if (right != left) epilogue(first + r, right * kMlpPanel + lane, sum[r][1]);
    }
  }
}

// x [rows][depth] times panels [panel_begin, panel_end); epilogue(row, column, value). The rows a
// warp takes are chosen so that the busiest warp has the least to do.
template <class Epilogue>
__device__ void multiply(const float* x, int x_stride, const float* packed, int depth,
                         int panel_begin, int panel_end, int rows, Epilogue epilogue) {
  const int pairs = (panel_end - panel_begin + 1) / 2;
  int best = 32, least = INT32_MAX;
  for (int candidate = 32; candidate >= 1; candidate /= 2) {
    const int items = pairs * ((rows + candidate - 1) / candidate);
    // Below about six rows a pass takes as long as its weights take to arrive.
    const int cost = (items + kMlpWarps - 1) / kMlpWarps * max(candidate, 6);
    if (cost < least || (cost == least && candidate >= rows)) {
      least = cost;
      best = candidate;
    }
  }
  if (best == 32) {
    multiply_rows<32>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  } else if (best == 16) {
    multiply_rows<16>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  } else if (best == 8) {
    multiply_rows<8>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  } else if (best == 4) {
    multiply_rows<4>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  } else if (best == 2) {
    multiply_rows<2>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  } else {
    multiply_rows<1>(x, x_stride, packed, depth, panel_begin, panel_end, rows, epilogue);
  }
}

}  // namespace jpmap
