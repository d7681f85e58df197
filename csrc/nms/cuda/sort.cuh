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
  if (t >= count) return;
  int place = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) place += tile[i] < item;
  items[first + place] = item;
}

// How many items of each of kAtOnce neighbouring tiles, from `tile` on, are less than this one.
template <int kAtOnce, typename Item>
__device__ __forceinline__ uint32_t nms_count_less(const NmsMerge<Item>& merge, uint32_t tile,
                                                   Item item) {
  uint32_t at[kAtOnce], before = 0;
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) at[k] = (tile + k) * merge.length;
  const auto less = [&](uint32_t i) { return i < merge.n && merge.items[i] < item; };
  for (uint32_t size = merge.length; size > 1; size -= size / 2) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) at[k] += less(at[k] + size / 2 - 1) ? size / 2 : 0;
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    before += at[k] + (less(at[k]) ? 1 : 0) - (tile + k) * merge.length;
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
  constexpr int kAtOnce = 4;  // searches that wait together
  uint32_t place = first * merge.length, tile = first;
  for (; tile + kAtOnce <= end; tile += kAtOnce) {
    place += nms_count_less<kAtOnce>(merge, tile, item);
  }
  for (; tile < end; ++tile) place += nms_count_less<1>(merge, tile, item);
  return place;
}

template <typename Item>
__global__ void __launch_bounds__(kNmsMergeBlock)
    nms_merge_kernel(NmsMerge<Item> merge, Item* merged) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < merge.n) merged[nms_place(merge, static_cast<uint32_t>(i))] = merge.items[i];
}

}  // namespace ssd_cuda
