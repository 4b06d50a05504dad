// How the starts of an image end: the last of them chooses among all.
#pragma once

#include "cuda/joint_data.cuh"

namespace jpmap {

struct JointRecord {
  double objective;
  long long iterations, candidates[3];
  int status;
  int published;  // whether x is still A^T y
};

// Of a whole batch, in device memory.
struct JointEnds {
  JointRecord* records;  // [B][K], of more than one start
  float* codes;          // [B][K][k]
  unsigned* ended;       // [B] starts that have ended, zeros at first
};

// One thread: writes down how a start has ended, and says whether it is the last of its image.
__device__ inline bool note_end(const JointEnds& ends, int64_t image, int64_t start, int64_t starts,
                                const Task& task, bool published, const float* z, int k) {
  volatile JointRecord& record = ends.records[image * starts + start];
  volatile float* code = ends.codes + (image * starts + start) * k;
  record.objective = task.objective;
  record.iterations = task.iterations;
  record.status = task.status;
  record.published = published;
  for (int i = 0; i < 3; ++i) record.candidates[i] = task.candidates[i];
  for (int c = 0; c < k; ++c) code[c] = z[c];
  __threadfence();
  const bool last = atomicAdd(ends.ended + image, 1u) + 1 == starts;
  __threadfence();
  return last;
}

// One thread, of an image all of whose starts have ended: the one that is kept, its code to `z`,
// and how it went to `task`, whether x is A^T y to `published`.
__device__ inline int64_t best_end(const JointEnds& ends, int64_t image, int64_t starts, Task& task,
                                   bool& published, float* z, int k) {
  const volatile JointRecord* records = ends.records + image * starts;
  TaskEnd best{records[0].objective, records[0].status, 0};
  for (int64_t other = 1; other < starts; ++other) {
    const TaskEnd end{records[other].objective, records[other].status, other};
    if (precedes(end, best)) best = end;
  }
  const volatile JointRecord& record = records[best.start];
  const volatile float* code = ends.codes + (image * starts + best.start) * k;
  task.objective = record.objective;
  task.iterations = record.iterations;
  task.status = record.status;
  for (int i = 0; i < 3; ++i) task.candidates[i] = record.candidates[i];
  published = record.published != 0;
  for (int c = 0; c < k; ++c) z[c] = code[c];
  return best.start;
}

}  // namespace jpmap
