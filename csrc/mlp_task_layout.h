// What a block holds that works on tasks of mlp_jpmap, a tile of them at a time: beside the numbers
// of their descents. Plain C++, as mlp_layout.h.
#pragma once

#include "jpmap_task.h"
#include "mlp_layout.h"

namespace jpmap {

// What a task's turn is for.
enum class TilePhase : int {
  kBegin,    // the encoder's start: its first point is weighed and becomes the state
  kFirst,    // any other: it descends from its first code, whose f is J1 of the state
  kEncode,   // it waits for the encoder
  kWeigh,    // the encoder's code is weighed
  kDescend,  // it descends; once that has ended, what it came to is judged
  kState,    // the state is made, which what it came to is to be compared with
  kProve,    // the system at the state says what a Newton step promises
  kEnd,      // it has ended, which is to be concluded
  kRemake,   // the point of the start that its image keeps is made, or made again
  kWrite     // the state goes to the results
};

struct TileTask {
  Task task;
  int64_t start;
  TilePhase phase;
  float gap;       // of the state
  int points[2];   // where the block's memory has its state and its candidate
  bool made;       // the state is a point; else its code and J1 are all that is known
  bool published;  // the state, or what is made again, has x = A^T y
  bool waits;      // a descent or proof begins with the next turn, whose forward pass it needs
};

// A task that waits for the encoder beside the slots, or has been told its code; an empty place has
// a point nevertheless.
struct alignas(16) TilePlace {
  TileTask task;
  long long image;
  float code[kMaxLatent], told[kMaxLatent];  // of the state, and what the encoder says
};

struct MlpTaskLayout : MlpLayout {
  // Rows that pass through encoder, decoder or measuring matrix together.
  static constexpr int kRows = 16;

  int pixels;           // of an image, padded: the decoder's last stride
  int point;            // floats of a point: x and G, padded by zeros
  int64_t state_codes;  // bytes from the start of shared memory: float [images][k]
  int64_t tasks;        // and TileTask [images]

  int ring;  // places for tasks that ask the encoder

  // A block's workspace, in floats: its slots, points, two of a slot and one of a place, and
  // TilePlace [ring].
  int64_t points, places, block;

  // An encoder that is not asked has no layers.
  MlpTaskLayout(const MlpShape& net, const MlpShape& decoder, const MlpShape& encoder,
                int tile_images, int rows)
      : MlpLayout(net, tile_images, rows) {
    int64_t widest = net.strides[net.count - 1];
    for (int l = 0; l < decoder.count; ++l) widest = std::max(widest, decoder.strides[l]);
    for (int l = 0; l < encoder.count; ++l) widest = std::max(widest, encoder.strides[l]);
    // Of either area; the descents' own layers have room already.
    const int64_t least = rounded(4 * kRows * (widest + kSplitPad));
    for (int& one : area) {
      const int64_t more = std::max<int64_t>(0, least - one);
      bytes += more;
      one = static_cast<int>(one + more);
    }
    state_codes = bytes;
    tasks = state_codes + 4 * codes;
    bytes = (tasks + images * static_cast<int64_t>(sizeof(TileTask)) + 15) / 16 * 16;
    pixels = static_cast<int>(decoder.strides[decoder.count - 1]);
    point = 2 * pixels;
    static_assert((kMlpImages + 1) / 2 <= kRows);  // the encoder's waiting rows are one pass
    ring = (images + 1) / 2;
    points = static_cast<int64_t>(images) * slot;
    places = points + static_cast<int64_t>(2 * images + ring) * point;
    block = places + ring * static_cast<int64_t>(sizeof(TilePlace) / sizeof(float));
  }
};

}  // namespace jpmap
