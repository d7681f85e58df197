// Boxes in score order, by merging: tiles of 256 are sorted, then groups of them become one tile until one is left.
//
// What is sorted is a number: the key of a score above the index of its box. All numbers differ, so the order is the stable
// one and a place is a count of smaller numbers: in a tile by comparing with each, in the other tiles of a group by binary
// searches, several at once, which neighbours in a warp take along nearly the same path. No pass depends on the scores.
#pragma once

#include <utility>

#include "nms_args.cuh"

namespace ssd_cuda {

constexpr int kNmsTile = kNmsBlock;
constexpr int kNmsMergeBlock = 128;
template <typename Item>
constexpr int kNmsSearches = sizeof(Item) == 8 ? 8 : 4;  // that wait together

// The type of what is sorted for scores whose keys are Key.
template <typename Key>
using NmsItem = std::conditional_t<sizeof(Key) == 8, unsigned __int128, unsigned long long>;

template <typename Item>
__device__ __forceinline__ int64_t nms_index(Item item) {
  return static_cast<int64_t>(static_cast<uint32_t>(item));
}

// The passes over n boxes: groups of `fan` tiles each.
struct NmsMergePlan {
  int64_t fan = 1;
  int passes = 1;  // one at least, the one that gathers

  NmsMergePlan(int64_t n, const NmsTuning& tuning) {
    const int64_t tiles = ceil_div<int64_t>(n, kNmsTile);
    fan = tiles;
    if (tiles <= tuning.merge_once) return;
    do {
      ++passes;
      for (fan = 2; reach(fan, passes, tiles) < tiles;) ++fan;
    } while (fan > tuning.merge_most);
  }

 private:
  // fan to the power of passes, or tiles where that is less.
  static int64_t reach(int64_t fan, int passes, int64_t tiles) {
    int64_t product = 1;
    for (int pass = 0; pass < passes && product < tiles; ++pass) product *= fan;
    return product < tiles ? product : tiles;
  }
};

// One pass: tiles of `length` sorted items, `fan` of them a group. 32 bits do: a place in a tile that ends beyond n < 2^31
// is below 2^32.
template <typename Item>
struct NmsMerge {
  const Item* items;
  uint32_t n, length, fan;
};

// Sorts the tile of the block; item of thread t at tile + t, if there is one. Called by all threads of a block of kNmsTile.
template <typename Item>
__device__ void nms_sort_tile(Item item, int64_t n, Item* items) {
  __shared__ Item tile[kNmsTile];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNmsTile;
  const int count = static_cast<int>(min(n - first, int64_t{kNmsTile}));
  const int t = static_cast<int>(threadIdx.x);
  tile[t] = item;
  __syncthreads();
  if (t >= count) return;  // after the one barrier
  int place = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) place += tile[i] < item;
  items[first + place] = item;
}

// How many items of tiles [tile, end), at most kNmsSearches of them, are less than this one. No load waits for another of
// its step: an index beyond the items reads the last one.
template <typename Item>
__device__ __forceinline__ uint32_t nms_count_less(const NmsMerge<Item>& merge, uint32_t tile,
                                                   uint32_t end, Item item) {
  constexpr int kAtOnce = kNmsSearches<Item>;
  uint32_t at[kAtOnce], before = 0;
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) at[k] = (min(tile + k, end - 1)) * merge.length;
  const auto less = [&](Item other, uint32_t i) { return (i < merge.n) & (other < item); };
  for (uint32_t size = merge.length; size > 0; size = size > 1 ? size - size / 2 : 0) {
    const uint32_t step = size > 1 ? size / 2 : 1;
    Item other[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      other[k] = merge.items[min(at[k] + step - 1, merge.n - 1)];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      at[k] += less(other[k], at[k] + step - 1) ? step : 0;
    }
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    before += tile + k < end ? at[k] - (tile + k) * merge.length : 0;
  }
  return before;
}

// Where the item at `from` is after the pass.
template <typename Item>
__device__ int64_t nms_place(const NmsMerge<Item>& merge, uint32_t from) {
  const Item item = merge.items[from];
  const uint32_t tiles = (merge.n - 1) / merge.length + 1;
  const uint32_t first = from / merge.length / merge.fan * merge.fan;
  const uint32_t end = min(first + merge.fan, tiles);
  uint32_t place = first * merge.length;
  for (uint32_t tile = first; tile < end; tile += kNmsSearches<Item>) {
    place += nms_count_less(merge, tile, end, item);
  }
  return place;
}

template <typename Item>
__global__ void __launch_bounds__(kNmsMergeBlock, 6)
    nms_merge_kernel(NmsMerge<Item> merge, Item* merged) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < merge.n) merged[nms_place(merge, static_cast<uint32_t>(i))] = merge.items[i];
}

}  // namespace ssd_cuda
