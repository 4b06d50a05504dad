// How many images a block's tile gets.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "mlp_layout.h"

namespace jpmap {

// A tile that fits, leaves no processor idle, and is of the largest size only where a block will
// take many images from the queue: the last ones of a tile work alone. `make(images, rows)` lays
// one out.
template <class Make>
auto tile_for(const char* op, int64_t batch, int processors, int room, const Make& make) {
  const int largest = batch < 128 * processors ? kMlpImages / 2 : kMlpImages;
  int images = 1;
  while (images < largest && images * processors < batch) images *= 2;
  for (int rows = kMlpTangentRows; rows >= 16; rows /= 2) {
    for (int fewer = images; fewer >= 1; fewer /= 2) {
      const auto layout = make(fewer, rows);
      if (layout.bytes <= room) return layout;
    }
  }
  STD_TORCH_CHECK(false, op, ": the network is too wide for the device's shared memory (",
                  make(1, 16).bytes, " bytes needed, ", room, " there)");
}

}  // namespace jpmap
