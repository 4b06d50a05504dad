// Memory of one worker of the fused MLP kernels, taken once for all its images.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/isa/kernels.h"

namespace jpmap {

// Tangent rows that pass through a weight matrix together: enough to repay reading the matrix, few
// enough to stay in a core's own cache.
constexpr int64_t kTangentRows = 128;

template <class T>
class MlpWorkspace {
 public:
  MlpWorkspace(const Mlp<T>& mlp, int64_t images) {
    const int64_t k = mlp.latent, panel = kPanelBytes / static_cast<int64_t>(sizeof(T));
    const int64_t last = mlp.layers[mlp.count - 1].stride;
    const int64_t descent = (k + panel - 1) / panel * panel;
    int64_t widest = 0, total = 0;
    for (int l = 0; l < mlp.count; ++l) {
      total += 4 * mlp.layers[l].stride;
      if (l + 1 < mlp.count) widest = std::max(widest, mlp.layers[l].stride);
    }
    const int64_t carried = std::max(widest, last), sums = k * (k + 1) * panel;
    const int64_t each = k + total + carried + descent + last + k * (2 * widest + panel) + sums;
    memory_.resize((images * each + kLine - 1) / kLine);
    T* at = memory_.front().numbers;
    const auto take = [&](int64_t count) {
      T* const begin = at;
      at += images * count;
      return begin;
    };
    for (int l = 0; l < mlp.count; ++l) {
      tile.value[l] = take(mlp.layers[l].stride);
      tile.slope[l] = take(mlp.layers[l].stride);
      tile.bend[l] = take(mlp.layers[l].stride);
      tile.pull[l] = take(mlp.layers[l].stride);
    }
    tile.carried = take(carried);
    tile.descent = take(descent);
    tile.curvature = take(last);
    tile.tangent[0] = take(k * widest);
    tile.tangent[1] = take(k * widest);
    tile.block = take(k * panel);
    tile.sums = take(sums);
    tile.z = take(k);  // last, since it is not padded
  }

  MlpTile<T> tile;

 private:
  // A vector of the widest instruction set, and a line of every cache: rows of whole panels that
  // begin with one never have a vector in two.
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  struct alignas(64) Line {
    T numbers[kLine];
  };
  std::vector<Line> memory_;
};

// Images a worker holds at a time; results do not depend on it.
inline int64_t tile_images(int64_t batch, int64_t latent, int64_t workers) {
  const int64_t share = (batch + workers - 1) / workers;
  return std::max<int64_t>(1, std::min(share, kTangentRows / latent));
}

}  // namespace jpmap
