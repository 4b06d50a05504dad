// What the fingerprints of both devices are made of: the bytes of a tensor as words of 64 bits, in
// chains. A step of a chain and the mixing of its end are bijections, so that another word anywhere
// is another fingerprint for certain, and more of them are but for one chance in 2^64.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <vector>

#include "check.h"
#include "host_device.h"

namespace jpmap {

// The chain after one more word. Turned by 29 bits, a word's highest bits come to its lowest, from
// where a product spreads them.
JPMAP_SHARED uint64_t chained(uint64_t chain, uint64_t word) {
  const uint64_t next = chain ^ word;
  return (next << 29 | next >> 35) * 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio, odd
}

// The end of the chain that is number `place` of its tensor, as it counts in the sum of all.
JPMAP_SHARED uint64_t mixed(uint64_t chain, uint64_t place) {
  uint64_t h = chain + (place + 1) * 0xd1b54a32d192ed03u;
  h = (h ^ h >> 32) * 0xbea225f9eb34556du;
  h = (h ^ h >> 29) * 0xbea225f9eb34556du;
  return h ^ h >> 32;
}

// The word at `at`, of which there are `left` bytes; zeros stand for those that are not there.
JPMAP_SHARED uint64_t last_word(const unsigned char* at, int64_t left) {
  uint64_t word = 0;
  for (int64_t i = 0; i < left && i < 8; ++i) word |= uint64_t{at[i]} << 8 * i;
  return word;
}

struct Bytes {
  const unsigned char* begin;
  int64_t count;
};

inline std::vector<Bytes> check_fingerprint(const std::vector<Tensor>& tensors) {
  constexpr const char* op = "fingerprint";
  STD_TORCH_CHECK(!tensors.empty(), op, ": expected at least one tensor");
  std::vector<Bytes> all;
  for (const Tensor& tensor : tensors) {
    check_device(op, "every tensor", tensor, tensors[0]);
    STD_TORCH_CHECK(tensor.is_contiguous(), op, ": expected contiguous tensors");
    all.push_back({static_cast<const unsigned char*>(tensor.const_data_ptr()),
                   tensor.numel() * static_cast<int64_t>(tensor.element_size())});
  }
  return all;
}

}  // namespace jpmap
