// Soft-NMS and DIoU-NMS of boxes: a block a class, then the rows of all classes (place.cuh).
//
// choose_kernel: the block of the first box of a class gathers the others of it, in index order, at the place that the
// number of boxes of lower classes gives; the other blocks end. Then it chooses one box after the other: in a pass over its
// boxes each thread lowers the scores of its own by the last choice (DIoU: drops what it removes) and remembers its best, and one barrier finds the best
// of all. Scores are kept as ordered_key, 0 for what is dropped or chosen. Ties go to the lower index by comparison, so the
// schedule does not matter.
//
// Bytes: a pass reads 5 T + T a box of the class, from L2 while they fit, and writes T where a score changed; a class of n
// boxes of which c are chosen has c passes: bound by c * (a barrier, n / threads pairs). Global memory: 6 T + 4 bytes a box.
#pragma once

#include "place.cuh"
#include "soft_nms/diou_nms_rule.h"
#include "soft_nms/soft_nms_rule.h"

namespace ssd_cuda {

constexpr int kChooseMost = 512;  // threads of a block; few boxes get fewer
constexpr int kChooseFew = 128;
constexpr int64_t kChooseManyBoxes = 1024;
template <typename T, typename Rule>
struct ChooseArgs {
  int64_t n, rows;
  Rule rule;             // dropped(score), area(box), after(key, chosen, its area, box, its area)
  const Vec4<T>* boxes;  // [N]
  const T* scores;       // [N]
  const int64_t* idxs;   // [N] or null: one class
  Ordered<T>* keys;      // [N] by index: the score at its choice, 0 if it was not chosen
  // By class, each in index order:
  Vec4<T>* own;         // [N]
  T* areas;             // [N]
  Ordered<T>* current;  // [N]
  int32_t* members;     // [N] their indices

  template <typename Take>
  ChooseArgs(int64_t count, const Take& take)
      : n(count),
        keys(take(n, Ordered<T>{})),
        own(take(n, Vec4<T>{})),
        areas(take(n, T{})),
        current(take(n, Ordered<T>{})),
        members(take(n, int32_t{})) {}
};

template <typename U>
struct ChooseBest {
  U key;  // 0: none
  unsigned at;
  __device__ __forceinline__ void take(U other_key, unsigned other_at) {
    if (other_key > key || (other_key == key && other_at < at)) key = other_key, at = other_at;
  }
};

template <typename U>
struct ChooseShared {
  ChooseBest<U> best[2][kChooseMost / 32];
  int64_t sums[kChooseMost / 32];
  unsigned counts[kChooseMost / 32];
};

// Whether no box before `self` is of its class. All threads.
template <typename Args>
__device__ __forceinline__ bool is_first_of_class(const Args& args, int64_t self) {
  const int64_t own = args.idxs[self];
  for (int64_t begin = 0; begin < self; begin += blockDim.x) {
    const int64_t j = begin + threadIdx.x;
    if (__syncthreads_or(j < self && args.idxs[j] == own)) return false;
  }
  return true;
}

// How many boxes are of lower classes. All threads.
template <typename Args, typename U>
__device__ __forceinline__ int64_t boxes_of_lower_classes(const Args& args, int64_t own,
                                                          ChooseShared<U>& shared) {
  int64_t sum = 0;
  for (int64_t j = threadIdx.x; j < args.n; j += blockDim.x) sum += args.idxs[j] < own;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += shared.sums[w];
  return sum;
}

template <typename T, typename Rule>
__device__ __forceinline__ void add_member(const ChooseArgs<T, Rule>& args, int64_t slot,
                                           int64_t j) {
  const Vec4<T> box = args.boxes[j];
  const T score = args.scores[j];
  args.own[slot] = box;
  args.areas[slot] = args.rule.area(box);
  args.current[slot] = args.rule.dropped(score) ? Ordered<T>(0) : ordered_key(score);
  args.members[slot] = static_cast<int32_t>(j);
  args.keys[j] = 0;
}

// The boxes of the class, in index order, from slot `first` on; returns how many. All threads.
template <typename Args, typename U>
__device__ __forceinline__ int64_t gather_class(const Args& args, int64_t self, int64_t first,
                                                ChooseShared<U>& shared) {
  const int64_t own = args.idxs[self];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t found = 0;
  for (int64_t begin = self; begin < args.n; begin += blockDim.x) {
    const int64_t j = begin + threadIdx.x;
    const bool mine = j < args.n && args.idxs[j] == own;
    const unsigned votes = __ballot_sync(kFullWarp, mine);
    if (lane == 0) shared.counts[warp] = static_cast<unsigned>(__popc(votes));
    __syncthreads();
    unsigned before = 0, all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      before += w < warp ? shared.counts[w] : 0;
      all += shared.counts[w];
    }
    const unsigned place = before + static_cast<unsigned>(__popc(votes & ((1u << lane) - 1)));
    if (mine) add_member(args, first + found + place, j);
    found += all;
    __syncthreads();  // before counts are written again
  }
  return found;
}

// The best of all threads; one barrier. Two calls in a row have different buffers.
template <typename U>
__device__ __forceinline__ ChooseBest<U> block_best(ChooseBest<U> best, ChooseBest<U>* buffer) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const U key = __shfl_xor_sync(kFullWarp, best.key, offset);
    const unsigned at = __shfl_xor_sync(kFullWarp, best.at, offset);
    best.take(key, at);
  }
  if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = best;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; ++w) best.take(buffer[w].key, buffer[w].at);
  return best;
}

template <typename T, typename Rule>
__global__ void __launch_bounds__(kChooseMost) choose_kernel(ChooseArgs<T, Rule> args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ ChooseShared<U> shared;
  int64_t first = 0, size = args.n;
  if (args.idxs == nullptr) {
    for (int64_t j = threadIdx.x; j < size; j += blockDim.x) add_member(args, j, j);
  } else {
    const int64_t self = blockIdx.x;
    if (!is_first_of_class(args, self)) return;
    first = boxes_of_lower_classes(args, args.idxs[self], shared);
    size = gather_class(args, self, first, shared);
  }
  __syncthreads();
  const Vec4<T>* own = args.own + first;
  const T* areas = args.areas + first;
  U* current = args.current + first;
  const auto count = static_cast<unsigned>(size);
  ChooseBest<U> best{0, ~0u};
  for (unsigned p = threadIdx.x; p < count; p += blockDim.x) best.take(current[p], p);
  for (int64_t row = 0; row < args.rows; ++row) {
    best = block_best(best, shared.best[row % 2]);
    if (best.key == 0) break;
    const unsigned chosen = best.at;
    if (threadIdx.x == 0) args.keys[args.members[first + chosen]] = best.key;
    const Vec4<T> box = own[chosen];
    const T area = areas[chosen];
    best = {0, ~0u};
    for (unsigned p = threadIdx.x; p < count; p += blockDim.x) {
      const U key = current[p];
      if (key == 0) continue;
      const U rest = p == chosen ? U(0) : args.rule.after(key, box, area, own[p], areas[p]);
      if (rest != key) current[p] = rest;
      best.take(rest, p);
    }
  }
}

// args: everything but the outputs.
template <typename T, typename Rule>
inline cudaError_t launch_choose(const ChooseArgs<T, Rule>& args, int64_t* keep, T* kept_scores,
                                 int64_t* count, cudaStream_t stream) {
  if (args.n > 0) {
    const auto blocks = static_cast<unsigned>(args.idxs != nullptr ? args.n : 1);
    const int threads = args.n < kChooseManyBoxes ? kChooseFew : kChooseMost;
    const cudaError_t error =
        launch(choose_kernel<T, Rule>, dim3(blocks), dim3(threads), 0, stream, args);
    if (error != cudaSuccess) return error;
  }
  return launch_place<T>({.keys = args.keys,
                          .n = args.n,
                          .rows = args.rows,
                          .keep = keep,
                          .kept_scores = kept_scores,
                          .count = count},
                         stream);
}

}  // namespace ssd_cuda
