// The data term of many codes an image (mlp_log_likelihood): the draws of a sampler.
//
// A worker takes a part of an image's draws at a time. They pass through the network in tiles that
// stay in a core's own cache, against one target, and of the last layer only what was observed is
// computed where that is little.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cmath>

#include "cpu/mlp_arguments.h"

namespace jpmap {
namespace {

// Draws that pass through a weight matrix together, and what parts of an image's draws are
// multiples of: both of the rows of every register tile.
constexpr int64_t kDrawRows = 132, kPartRows = 12;

template <class T>
constexpr int64_t kPanelWidth = kPanelBytes / static_cast<int64_t>(sizeof(T));

template <class T>
int64_t padded(int64_t columns) {
  return (columns + kPanelWidth<T> - 1) / kPanelWidth<T> * kPanelWidth<T>;
}

// An image's view of network and measurements: only the outputs that its data term has, where
// gathering their weights repays. Which those are is the image's alone, not the number of draws.
template <class T>
class Observed {
 public:
  Observed(const Mlp<T>& all, const MlpTarget<T>& measured, bool whole)
      : mlp(all), target(measured) {
    if (whole || measured.weight_scalar) return;
    // What is not finite shows in f whatever its weight.
    for (int64_t j = 0; j < all.outputs; ++j) {
      if (measured.weight[j] != 0 || !std::isfinite(measured.target[j])) columns_.push_back(j);
    }
    const int64_t count = columns_.size();
    if (count == 0 || 4 * count > 3 * all.outputs) return;
    gather_layer(all.layers[all.count - 1]);
    gather(measured.target, targets_, target.target);
    gather(measured.weight, weights_, target.weight);
    if (measured.scale != nullptr) gather(measured.scale, scales_, target.scale);
    mlp.outputs = count;
  }
  Observed(const Observed&) = delete;

  Mlp<T> mlp;
  MlpTarget<T> target;

 private:
  void gather(const T* from, std::vector<T>& to, const T*& place) {
    to.reserve(columns_.size());
    for (const int64_t j : columns_) to.push_back(from[j]);
    place = to.data();
  }

  void gather_layer(const MlpLayer<T>& whole) {
    const int64_t width = kPanelWidth<T>, depth = whole.inputs;
    const int64_t count = columns_.size(), stride = padded<T>(count);
    packed_.assign(stride * depth, T(0));
    for (int64_t begin = 0; begin < count; begin += width) {
      const int64_t end = std::min(begin + width, count);
      T* panel = packed_.data() + begin * depth;
      for (int64_t i = begin; i < end; ++i) {
        const T* from = whole.packed + columns_[i] / width * width * depth + columns_[i] % width;
        for (int64_t d = 0; d < depth; ++d) panel[d * width + i - begin] = from[d * width];
      }
    }
    MlpLayer<T>& last = mlp.layers[mlp.count - 1];
    gather(whole.bias, biases_, last.bias);
    biases_.resize(stride, T(0));
    last.bias = biases_.data();
    last.packed = packed_.data();
    last.adjoint = nullptr;
    last.outputs = count;
    last.stride = stride;
  }

  std::vector<int64_t> columns_;
  std::vector<T> packed_, biases_, targets_, weights_, scales_;
};

template <class T>
class DrawRoom {
 public:
  DrawRoom(const Mlp<T>& mlp, int64_t rows) : lanes_(rows * kSumLanes) {
    int64_t widest[2] = {0, 0};
    for (int l = 0; l + 1 < mlp.count; ++l) {
      widest[l % 2] = std::max(widest[l % 2], mlp.layers[l].stride);
    }
    memory_.resize(rows * (widest[0] + widest[1] + kPanelWidth<T>));
    draws.value[0] = memory_.data();
    draws.value[1] = draws.value[0] + rows * widest[0];
    draws.block = draws.value[1] + rows * widest[1];
    draws.lanes = lanes_.data();
    draws.kept_layer = -1;
    draws.kept = nullptr;
  }

  MlpDraws<T> draws;

 private:
  std::vector<T> memory_;
  std::vector<double> lanes_;
};

// Draws of an image that a worker takes at a time: all of them where there are images enough, since
// each part gathers the image's weights anew.
int64_t share_of(const MlpSizes& sizes, int64_t workers) {
  const int64_t parts = workers == 1 ? 1 : (2 * workers + sizes.batch - 1) / sizes.batch;
  const int64_t share = (sizes.draws + parts - 1) / parts;
  return (share + kPartRows - 1) / kPartRows * kPartRows;
}

// A layer whose outputs [B, N, outputs] are written down.
template <class T>
struct Kept {
  int layer;
  T* outputs;
};

template <class T>
void log_likelihood(const Mlp<T>& mlp, const MlpMeasurement& m, const MlpSizes& sizes, const T* z,
                    const Kept<T>& kept, double* out) {
  const auto& kernels = isa_kernels<T>();
  const int64_t width = kept.layer < 0 ? 0 : mlp.layers[kept.layer].outputs;
  const int64_t share = share_of(sizes, worker_count());
  const int64_t parts = (sizes.draws + share - 1) / share;
  std::atomic<int64_t> next{0};
  on_every_worker(sizes.batch * parts, [&] {
    DrawRoom<T> room(mlp, std::min(kDrawRows, sizes.draws));
    for (int64_t item; (item = next.fetch_add(1)) < sizes.batch * parts;) {
      const int64_t image = item / parts, first = item % parts * share;
      const int64_t last = std::min(first + share, sizes.draws);
      const Observed<T> seen(mlp, target_of<T>(m, image, mlp.outputs), kept.layer + 1 == mlp.count);
      for (int64_t begin = first; begin < last; begin += kDrawRows) {
        const int64_t rows = std::min(kDrawRows, last - begin), at = image * sizes.draws + begin;
        room.draws.kept_layer = kept.layer;
        room.draws.kept = kept.outputs + at * width;
        kernels.mlp_misfit(seen.mlp, seen.target, z + at * sizes.latent, rows, room.draws,
                           out + at);
        for (int64_t i = at; i < at + rows; ++i) out[i] = -out[i];
      }
    }
  });
}

struct Draws {
  const Tensor& z;
  const Network& network;
  const MlpMeasurement& measurement;
  MlpSizes sizes;
};

Tensor evaluated(const char* op, const Draws& draws, int layer, const Tensor* kept) {
  const auto& [z, network, measurement, sizes] = draws;
  Tensor out = torch::stable::new_empty(z, {sizes.batch, sizes.draws},
                                        torch::headeronly::ScalarType::Double);
  if (sizes.batch == 0 || sizes.draws == 0) return out;
  dispatch_floating(op, z, [&](auto zero) {
    using T = decltype(zero);
    const auto mlp = mlp_of<T>(network, sizes.latent, sizes.outputs);
    log_likelihood<T>(mlp, measurement, sizes, read<T>(z),
                      {layer, kept == nullptr ? nullptr : write<T>(*kept)}, write<double>(out));
  });
  return out;
}

Tensor mlp_log_likelihood(Tensor z, Tensors packed, Tensors adjoints, Tensors tangents,
                          Tensors biases, Integers activations, Tensor target, Tensor weight,
                          std::optional<Tensor> scale, std::optional<Tensor> law) {
  const char* op = "mlp_log_likelihood";
  const std::optional<Tensor> none;
  const MlpMeasurement measurement{target, weight, scale, none, law};
  const auto sizes =
      check_mlp_panels(op, z, packed, adjoints, tangents, biases, activations, measurement, true);
  return evaluated(op, {z, {packed, adjoints, tangents, biases, activations}, measurement, sizes},
                   -1, nullptr);
}

std::tuple<Tensor, Tensor> mlp_log_likelihood_kept(Tensor z, Tensors packed, Tensors adjoints,
                                                   Tensors tangents, Tensors biases,
                                                   Integers activations, Tensor target,
                                                   Tensor weight, std::optional<Tensor> scale,
                                                   std::optional<Tensor> law, int64_t layer) {
  const char* op = "mlp_log_likelihood_kept";
  const std::optional<Tensor> none;
  const MlpMeasurement measurement{target, weight, scale, none, law};
  const auto sizes =
      check_mlp_panels(op, z, packed, adjoints, tangents, biases, activations, measurement, true);
  const int64_t count = packed.size();
  STD_TORCH_CHECK(layer >= 0 && layer < count, op, ": expected a layer from 0 to ", count - 1,
                  ", got ", layer);
  const Tensor kept =
      torch::stable::new_empty(z, {sizes.batch, sizes.draws, adjoints[layer].size(1)});
  return {evaluated(op, {z, {packed, adjoints, tangents, biases, activations}, measurement, sizes},
                    static_cast<int>(layer), &kept),
          kept};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) {
  m.impl("mlp_log_likelihood", TORCH_BOX(&mlp_log_likelihood));
  m.impl("mlp_log_likelihood_kept", TORCH_BOX(&mlp_log_likelihood_kept));
}

}  // namespace jpmap
