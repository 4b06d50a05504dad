// What the CUDA kernels of mlp_jpmap make of their arguments.
#pragma once

#include "cuda/joint_data.cuh"
#include "cuda/mlp_arguments.cuh"
#include "jpmap_arguments.h"

namespace jpmap {

struct Given {
  const Tensors& weights;  // rows of all layers, then split rows, then scales; of codes rows alone
  const Tensors& biases;
  const Integers& activations;
};

inline ForwardNetwork forward_of(const char* op, const char* name, const Given& given,
                                 const Tensor& like, int64_t inputs, int64_t outputs,
                                 bool of_codes) {
  const size_t count = given.biases.size(), skipped = of_codes ? 1 : 0;
  const size_t split = count == 0 ? 0 : count - skipped;
  STD_TORCH_CHECK(count <= kMaxLayers && given.weights.size() == count + 2 * split &&
                      given.activations.size() == count,
                  op, ": expected up to ", kMaxLayers, " layers of the ", name,
                  ", each with weights, bias and activation");
  ForwardNetwork net{};
  net.count = static_cast<int>(count);
  for (size_t l = 0; l < count; ++l) {
    check_activation(op, given.activations[l]);
    STD_TORCH_CHECK(given.biases[l].dim() == 1 && given.biases[l].size(0) % 32 == 0, op,
                    ": expected biases of the ", name, " padded to a multiple of 32");
    const int64_t stride = given.biases[l].size(0);
    check(op, name, given.weights[l], like, {stride, inputs});
    check(op, name, given.biases[l], like, {stride});
    check_aligned(op, name, given.weights[l]);
    check_aligned(op, name, given.biases[l]);
    const Tensor* halves = l < skipped ? nullptr : &given.weights[count + l - skipped];
    const Tensor* scale = l < skipped ? nullptr : &given.weights[count + split + l - skipped];
    if (halves != nullptr) {
      check_split(op, name, *halves, like, stride, inputs);
      check(op, name, *scale, like, {1});
    }
    net.layers[l] = {read<float>(given.weights[l]),
                     halves == nullptr ? nullptr : read<__half>(*halves),
                     scale == nullptr ? nullptr : read<float>(*scale),
                     read<float>(given.biases[l]),
                     static_cast<int>(inputs),
                     static_cast<int>(stride),
                     static_cast<Activation>(given.activations[l])};
    inputs = stride;
  }
  STD_TORCH_CHECK(count == 0 || (outputs <= inputs && outputs > inputs - 32), op, ": expected a ",
                  name, " with ", outputs, " outputs");
  return net;
}

// Pixels of an image, padded as the decoder's outputs: an encoder takes so many.
inline int64_t padded_pixels(const char* op, const ForwardNetwork& decoder) {
  STD_TORCH_CHECK(decoder.count > 0, op, ": expected a decoder");
  return decoder.layers[decoder.count - 1].stride;
}

}  // namespace jpmap
