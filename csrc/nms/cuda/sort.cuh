// Boxes in score order, by merging: tiles of kNmsTile are sorted, then groups of them become one tile until one is left.
//
// What is sorted is a number: the key of a score above the index of its box. All numbers differ, so the order is the stable
// one and a place is a count of smaller numbers: in a part of 64 of a tile by comparing with each, in the other parts or
// tiles of a group by binary searches, several at once, which neighbours in a warp take along nearly the same path; parts
// of a tile are merged in shared memory. No pass depends on the scores.
#pragma once

#include <utility>

#include "nms_args.cuh"

namespace ssd_cuda {

constexpr int kNmsTile = 512;
constexpr int kNmsPart = 64;      // of a tile
constexpr int kNmsPartGroup = 4;  // parts that are merged at once
constexpr int kNmsMergeBlock = 128;
constexpr int kNmsPlaceLanes = 8;  // that search for the place of one item where one pass is enough
static_assert(kNmsTile % (kNmsPart * kNmsPartGroup) == 0);
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

// How many items of tiles [tile, end), at most kAtOnce of them, are less than this one. No load waits for another of its
// step: an index beyond the items reads the last one.
template <int kAtOnce, typename Item>
__device__ __forceinline__ uint32_t nms_count_less(const NmsMerge<Item>& merge, uint32_t tile,
                                                   uint32_t end, Item item) {
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

// Where the item at `from` is after the pass. kLanes neighbouring lanes share the tiles of its group; called by whole warps.
template <int kLanes, int kAtOnce, typename Item>
__device__ __forceinline__ uint32_t nms_place(const NmsMerge<Item>& merge, uint32_t from) {
  const Item item = merge.items[from];
  const uint32_t tiles = (merge.n - 1) / merge.length + 1;
  const uint32_t first = from / merge.length / merge.fan * merge.fan;
  const uint32_t share = ceil_div<uint32_t>(merge.fan, kLanes), lane = threadIdx.x % kLanes;
  const uint32_t end = min(first + min(merge.fan, (lane + 1) * share), tiles);
  uint32_t place = lane == 0 ? first * merge.length : 0;
  for (uint32_t tile = first + lane * share; tile < end; tile += kAtOnce) {
    place += nms_count_less<kAtOnce>(merge, tile, end, item);
  }
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    place += __shfl_xor_sync(kFullWarp, place, offset);
  }
  return place;
}

// Sorts the tile of the block; item of thread t at tile + t, if there is one. Called by all threads of a block of kNmsTile.
template <typename Item>
__device__ void nms_sort_tile(Item item, int64_t n, Item* items) {
  __shared__ Item unsorted[kNmsTile], sorted[kNmsTile];
  constexpr int kGroup = kNmsPart * kNmsPartGroup, kGroups = kNmsTile / kGroup;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNmsTile;
  const int count = static_cast<int>(min(n - first, int64_t{kNmsTile}));
  const int t = static_cast<int>(threadIdx.x), part = t / kNmsPart * kNmsPart;
  const bool on = t < count;
  unsorted[t] = item;
  __syncthreads();
  int place = part;
#pragma unroll 8
  for (int i = part; i < min(part + kNmsPart, count); ++i) place += unsorted[i] < item;
  if (on) sorted[place] = item;
  __syncthreads();
  const auto size = static_cast<uint32_t>(count);
  const NmsMerge<Item> parts{sorted, size, kNmsPart, kNmsPartGroup};
  if (on) {
    const uint32_t at = nms_place<1, kNmsPartGroup>(parts, static_cast<uint32_t>(t));
    unsorted[at] = sorted[t];
  }
  __syncthreads();
  const NmsMerge<Item> groups{unsorted, size, kGroup, kGroups};
  if (on) items[first + nms_place<1, kGroups>(groups, static_cast<uint32_t>(t))] = unsorted[t];
}

template <typename Item>
__global__ void __launch_bounds__(kNmsMergeBlock, 6)
    nms_merge_kernel(NmsMerge<Item> merge, Item* merged) {
  after_previous_kernel();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= merge.n) return;
  const auto from = static_cast<uint32_t>(i);
  merged[nms_place<1, kNmsSearches<Item>>(merge, from)] = merge.items[i];
}

}  // namespace ssd_cuda
