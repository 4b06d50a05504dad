// What the fused MLP kernels work on: a network, and a tile of images with their workspace.
#pragma once

#include <cstdint>

namespace jpmap {

// In the order of jpmap_fast/kernels/activations.py.
enum class Activation { kElu, kRelu, kSilu, kSoftplus, kTanh, kSigmoid, kIdentity };

constexpr int kMaxLayers = 8;
constexpr int64_t kMaxLatent = 64;

// The upper half of a float32.
enum class BFloat16 : uint16_t {};

// h = f(W x + b). W and W^T are packed in panels as for `linear`, b padded with zeros to whole
// panels.
template <class T>
struct MlpLayer {
  const T* packed;
  const T* adjoint;
  const T* bias;
  int64_t inputs, outputs;
  int64_t stride;  // outputs, padded to whole panels
  Activation activation;
  // W [panels][pairs of inputs][panel][2], where tangents pass in bfloat16: then of every layer but
  // the first.
  const BFloat16* tangents = nullptr;
};

template <class T>
struct Mlp {
  MlpLayer<T> layers[kMaxLayers];
  int count;
  int64_t latent;
  int64_t outputs;
};

// What a network's output is compared with, for one image:
//   f(z) = 1/2 sum_j w_j (t_j - s_j out_j(z))^2 + 1/2 ||z||^2 + constant
// or, where an output decides its variance v,
//   f(z) = 1/2 sum_j w_j ((t_j - s_j out_j)^2 / v_j + log(v_j / u_j)) + 1/2 ||z||^2 + constant,
//   v_j = noise + s_j^2 (floor + slope g (1 - g)), g = out_j within [0, 1], u_j = noise + s_j^2
//   unit
template <class T>
struct MlpTarget {
  const T* target;  // [outputs]
  const T* weight;  // [outputs] or [1]
  const T* scale;   // [outputs], or null for 1
  const T* law;     // noise, floor, slope and unit, or null where w is the precision
  bool weight_scalar;
  double constant;
};

constexpr int kLawNumbers = 4;

// A tile of at most `capacity` images, [image][...] everywhere, rows padded to whole panels.
template <class T>
struct MlpTile {
  T* z;                  // [latent]
  T* value[kMaxLayers];  // outputs h of each layer
  T* slope[kMaxLayers];  // f'
  T* bend[kMaxLayers];   // f''
  T* pull[kMaxLayers];   // df/dh; the last layer's by image, the others' by place in the list
  T* carried;            // df/da of one layer
  T* descent;            // what the network adds to the gradient, [latent] padded
  T* curvature;          // s^2 w
  T* tangent[2];         // [image][latent] rows of the widest hidden layer, or of BFloat16
  T* block;              // [image][latent] rows of one panel
  T* sums;               // vector accumulators of one image's two matrices
};

// Where the codes of one image pass through a network together, rows padded to whole panels.
template <class T>
struct MlpDraws {
  T* value[2];     // outputs of even and of odd layers but the last, [row][stride]
  T* block;        // a panel of the last layer's, [row][panel]
  double* lanes;   // [row][kSumLanes]
  int kept_layer;  // whose outputs are written down, -1 for none
  T* kept;         // to [row][its outputs]
};

}  // namespace jpmap
