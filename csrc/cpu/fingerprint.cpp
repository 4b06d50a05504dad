// What tells a tensor's numbers from others (fingerprint): a sum over chains of its words.
#include "fingerprint.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/parallel.h"

namespace jpmap {
namespace {

constexpr int64_t kPiece = 1 << 16;  // bytes of an item
constexpr int kChains = 16;          // side by side: a step waits for the one before it
constexpr int64_t kStride = 8 * kChains;

// The fingerprint of piece number `piece` of a tensor.
JPMAP_CLONES uint64_t of_piece(const unsigned char* at, int64_t count, int64_t piece) {
  uint64_t chains[kChains] = {};
  for (; count >= kStride; at += kStride, count -= kStride) {
    uint64_t words[kChains];
    std::memcpy(words, at, kStride);
    for (int i = 0; i < kChains; ++i) chains[i] = chained(chains[i], words[i]);
  }
  for (int i = 0; count > 0; ++i, at += 8, count -= 8) {
    chains[i] = chained(chains[i], last_word(at, count));
  }
  uint64_t total = 0;
  for (int i = 0; i < kChains; ++i) total += mixed(chains[i], piece * kChains + i);
  return total;
}

Tensor fingerprint(std::vector<Tensor> tensors) {
  const std::vector<Bytes> all = check_fingerprint(tensors);
  const int64_t number = static_cast<int64_t>(all.size());
  Tensor out = torch::stable::new_empty(tensors[0], {number}, torch::headeronly::ScalarType::Long);
  std::vector<int64_t> first{0};  // piece of each tensor
  for (const Bytes& bytes : all)
    first.push_back(first.back() + (bytes.count + kPiece - 1) / kPiece);
  std::vector<std::atomic<uint64_t>> sums(all.size());
  for_each_item(first.back(), kPiece / 4, [&](int64_t item) {
    const int64_t tensor = std::upper_bound(first.begin(), first.end(), item) - first.begin() - 1;
    const int64_t piece = item - first[tensor], begin = piece * kPiece;
    const Bytes& bytes = all[tensor];
    sums[tensor] += of_piece(bytes.begin + begin, std::min(kPiece, bytes.count - begin), piece);
  });
  int64_t* found = write<int64_t>(out);
  for (int64_t i = 0; i < number; ++i) found[i] = static_cast<int64_t>(sums[i].load());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(jpmap, CPU, m) { m.impl("fingerprint", TORCH_BOX(&fingerprint)); }

}  // namespace jpmap
