// An MLP as the CUDA kernels see it, and its activations one number at a time.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "mlp_network.h"

namespace jpmap {

constexpr float kSplitScale = 8192.0f;

struct MlpNetwork {
  struct Layer {
    const float* rows;            // W [stride][inputs]
    const float* columns;         // W^T [inputs][stride]
    const __half* split_rows;     // W times kSplitScale `scale` in two parts, see split_product.cuh
    const __half* split_columns;  // W^T likewise; neither of the first layer
    const float* scale;           // [1], a power of two: of the tangents that this layer makes
    const float* bias;            // [stride]
    int inputs;  // the stride of the layer before; of the first, the latent dimension
    int stride;  // outputs, padded to a multiple of 32
    Activation activation;
  };
  Layer layers[kMaxLayers];
  int count, latent, outputs;
};

// Activations without branches: several of a thread's own then run side by side.

// 1 / x to the last digit or so, where a division would have a branch for subnormal numbers.
__device__ inline float inverse_of(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}

__device__ inline float sigmoid(float a) { return inverse_of(1.0f + expf(-a)); }

// h = f(a)
__device__ inline float activate(Activation kind, float a) {
  switch (kind) {
    case Activation::kElu:
      return (a > 0 ? a : 0.0f) + expm1f(a > 0 ? 0.0f : a);  // not a number stays none
    case Activation::kRelu:
      return a < 0 ? 0.0f : a;  // here too
    case Activation::kSilu:
      return a * sigmoid(a);
    case Activation::kSoftplus:
      return fmaxf(a, 0.0f) + log1pf(expf(-fabsf(a)));
    case Activation::kTanh:
      return tanhf(a);
    case Activation::kSigmoid:
      return sigmoid(a);
    default:
      return a;
  }
}

// f'(a) and f''(a) of a and h = f(a).
struct Derivatives {
  float slope, bend;
};

__device__ inline Derivatives derivatives(Activation kind, float a, float h) {
  switch (kind) {
    case Activation::kElu:
      return a > 0 ? Derivatives{1.0f, 0.0f} : Derivatives{h + 1.0f, h + 1.0f};
    case Activation::kRelu:
      return {a > 0 ? 1.0f : 0.0f, 0.0f};
    case Activation::kSilu: {
      const float s = sigmoid(a);
      return {s + h * (1.0f - s), s * (1.0f - s) * (2.0f + a * (1.0f - 2.0f * s))};
    }
    case Activation::kSoftplus: {
      const float s = sigmoid(a);
      return {s, s * (1.0f - s)};
    }
    case Activation::kTanh: {
      const float s = 1.0f - h * h;
      return {s, -2.0f * h * s};
    }
    case Activation::kSigmoid: {
      const float s = h * (1.0f - h);
      return {s, s * (1.0f - 2.0f * h)};
    }
    default:
      return {1.0f, 0.0f};
  }
}

// Whether f' and f'' follow from h. A neuron's *root*, all that is kept of it, is then h, and a
// otherwise.
__device__ inline bool keeps_output(Activation kind) {
  return kind != Activation::kSilu && kind != Activation::kSoftplus;
}

__device__ inline float output_of(Activation kind, float root) {
  return keeps_output(kind) ? root : activate(kind, root);
}

__device__ inline Derivatives derivatives_of(Activation kind, float root) {
  return derivatives(kind, root, output_of(kind, root));
}

// f'' / f' of a neuron, where f' is not 0.
__device__ inline float bend_over_slope(Activation kind, float root, const Derivatives& d) {
  switch (kind) {
    case Activation::kElu:
      return root > 0 ? 0.0f : 1.0f;
    case Activation::kTanh:
      return -2.0f * root;
    case Activation::kSigmoid:
      return 1.0f - 2.0f * root;
    case Activation::kSilu:
    case Activation::kSoftplus:
      return d.bend * inverse_of(d.slope);
    default:
      return 0.0f;
  }
}

// body(integral_constant) of an activation, so that a loop inside asks for it once.
template <class Body>
__device__ __forceinline__ void with_activation(Activation kind, const Body& body) {
  switch (kind) {
    case Activation::kElu:
      return body(std::integral_constant<Activation, Activation::kElu>{});
    case Activation::kRelu:
      return body(std::integral_constant<Activation, Activation::kRelu>{});
    case Activation::kSilu:
      return body(std::integral_constant<Activation, Activation::kSilu>{});
    case Activation::kSoftplus:
      return body(std::integral_constant<Activation, Activation::kSoftplus>{});
    case Activation::kTanh:
      return body(std::integral_constant<Activation, Activation::kTanh>{});
    case Activation::kSigmoid:
      return body(std::integral_constant<Activation, Activation::kSigmoid>{});
    default:
      return body(std::integral_constant<Activation, Activation::kIdentity>{});
  }
}

__device__ inline bool bends(Activation kind) {
  return kind != Activation::kRelu && kind != Activation::kIdentity;
}

}  // namespace jpmap
