// Sorts the keys of a CTA in shared memory, in place, in seven barriers; or only deals them to buckets, so that the caller
// may rank the best alone.
//
// The keys are dealt to buckets of equal width between the least and the greatest key, about one a bucket. The place of a
// key is the number of keys in the buckets before its own, by a prefix sum, and of smaller keys in its own. All keys
// differ, so the order in which they reach their bucket does not matter. Where the keys crowd into a few buckets
// nothing is changed and the caller sorts in another way.
#pragma once

#include "common/cuda/warp_reduce.cuh"
#include "detect/detect_rule.h"

namespace ssd_cuda {

constexpr int kSortKeys = 4;         // keys and buckets a thread
constexpr unsigned kSortCrowd = 64;  // more keys in a bucket: give up
constexpr int kSortMostWarps = 16;

// What decides the bucket: the key, or its upper part.
__device__ __forceinline__ unsigned long long sort_word(uint64_t key) { return key; }
__device__ __forceinline__ unsigned long long sort_word(unsigned __int128 key) {
  return static_cast<unsigned long long>(key >> 32);
}

// Where a word belongs, below kCapacity.
struct SortBuckets {
  unsigned long long low;
  int shift;
  __device__ __forceinline__ unsigned of(unsigned long long word) const {
    return static_cast<unsigned>((word - low) >> shift);
  }
};

template <int kThreads>
struct SortScratch {
  static_assert(kThreads / 32 <= kSortMostWarps);
  static constexpr int kCapacity = kSortKeys * kThreads;
  unsigned long long least[kThreads / 32], greatest[kThreads / 32];
  unsigned sums[kThreads / 32];
  unsigned
      start[kCapacity + kSortKeys];  // counts of the buckets, then the place of their first key
};

// All threads: the buckets of words that reach from the least to the greatest.
template <int kThreads>
__device__ __forceinline__ SortBuckets sort_range(unsigned long long least,
                                                  unsigned long long greatest,
                                                  SortScratch<kThreads>* scratch) {
  constexpr int kWarps = kThreads / 32;
  const auto fold = [&] {
    least = ~warp_largest_bits(~least);
    greatest = warp_largest_bits(greatest);
  };
  fold();
  if (threadIdx.x % 32 == 0) {
    scratch->least[threadIdx.x / 32] = least;
    scratch->greatest[threadIdx.x / 32] = greatest;
  }
  __syncthreads();
  least = scratch->least[threadIdx.x % kWarps], greatest = scratch->greatest[threadIdx.x % kWarps];
  fold();
  const int bits = 64 - __clzll(static_cast<long long>(greatest - least));
  constexpr int kBits = kThreads == 512 ? 11 : 10;
  static_assert(1 << kBits == SortScratch<kThreads>::kCapacity);
  return {least, bits > kBits ? bits - kBits : 0};
}

// All threads: turns the counts of the buckets into the place of their first key. False when one is crowded.
template <int kThreads>
__device__ __forceinline__ bool sort_places(SortScratch<kThreads>* scratch) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  unsigned before[kSortKeys], sum = 0;
  bool crowded = false;
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    const unsigned count = scratch->start[kSortKeys * t + u];
    before[u] = sum;
    sum += count;
    crowded = crowded || count > kSortCrowd;
  }
  unsigned inclusive = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const unsigned other = __shfl_up_sync(kFullWarp, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == 31) scratch->sums[warp] = inclusive;
  if (__syncthreads_or(crowded)) return false;
  unsigned base = inclusive - sum;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) base += w < warp ? scratch->sums[w] : 0;
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) scratch->start[kSortKeys * t + u] = base + before[u];
  if (t == kThreads - 1) scratch->start[kSortKeys * kThreads] = base + sum;
  __syncthreads();
  return true;
}

// The places of a thread's keys: that of their bucket's first, and the smaller keys there. Each comparison waits for a load,
// so the four keys take them side by side where a thread has registers for that. The loops end by a number, not by a
// flag: see benchmarks/kernel_barriers.py.
template <int kThreads, typename Key>
__device__ __forceinline__ void rank_keys(const Key* keys, unsigned count,
                                          const Key (&key)[kSortKeys],
                                          const unsigned (&bucket)[kSortKeys],
                                          const unsigned* start, unsigned (&place)[kSortKeys]) {
  constexpr int kAtOnce = kThreads > 256 ? kSortKeys : 1;
#pragma unroll
  for (int begin = 0; begin < kSortKeys; begin += kAtOnce) {
    unsigned first[kAtOnce], size[kAtOnce], longest = 0;
#pragma unroll
    for (int v = 0; v < kAtOnce; ++v) {
      const int u = begin + v;
      const bool mine = threadIdx.x + u * kThreads < count;
      place[u] = first[v] = mine ? start[bucket[u]] : 0;
      size[v] = mine ? start[bucket[u] + 1] - first[v] : 0;
      longest = size[v] > longest ? size[v] : longest;
    }
#pragma unroll 1
    for (unsigned i = 0; i < longest; ++i) {
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        if (i < size[v]) place[begin + v] += keys[first[v] + i] < key[begin + v];
      }
    }
  }
}

// The keys of a thread: those at its number and every kThreads further.
template <int kThreads, typename Key>
__device__ __forceinline__ void read_keys(const Key* keys, unsigned count, Key (&key)[kSortKeys]) {
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    const unsigned i = threadIdx.x + u * kThreads;
    key[u] = i < count ? keys[i] : Key{0};
  }
}

// All kThreads threads, which hold the keys [0, count) and have their buckets then: puts them in the order of the buckets,
// whose first places are then in the scratch, count <= kCapacity. False, and nothing changed, when they crowd.
template <int kThreads, typename Key>
__device__ __forceinline__ bool deal_keys(Key* keys, unsigned count, SortScratch<kThreads>* scratch,
                                          SortBuckets& buckets, const Key (&key)[kSortKeys],
                                          unsigned (&bucket)[kSortKeys]) {
  unsigned long long least = ~0ull, greatest = 0;
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) scratch->start[threadIdx.x + u * kThreads] = 0;
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    if (threadIdx.x + u * kThreads >= count) continue;
    const unsigned long long word = sort_word(key[u]);
    least = word < least ? word : least;
    greatest = word > greatest ? word : greatest;
  }
  buckets = sort_range(least, greatest, scratch);
  unsigned place[kSortKeys];
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    if (threadIdx.x + u * kThreads >= count) continue;
    bucket[u] = buckets.of(sort_word(key[u]));
    place[u] = atomicAdd(&scratch->start[bucket[u]], 1u);
  }
  __syncthreads();
  if (!sort_places(scratch)) return false;
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    if (threadIdx.x + u * kThreads < count) keys[scratch->start[bucket[u]] + place[u]] = key[u];
  }
  __syncthreads();
  return true;
}

// All kThreads threads, after a barrier: keys [0, count) into ascending order, count <= kCapacity. False, and nothing
// changed, when they crowd.
template <int kThreads, typename Key>
__device__ __forceinline__ bool bucket_sort(Key* keys, unsigned count,
                                            SortScratch<kThreads>* scratch) {
  Key key[kSortKeys];
  unsigned bucket[kSortKeys], place[kSortKeys];
  SortBuckets buckets;
  read_keys<kThreads>(keys, count, key);
  if (!deal_keys(keys, count, scratch, buckets, key, bucket)) return false;
  rank_keys<kThreads>(keys, count, key, bucket, scratch->start, place);
  __syncthreads();
#pragma unroll
  for (int u = 0; u < kSortKeys; ++u) {
    if (threadIdx.x + u * kThreads < count) keys[place[u]] = key[u];
  }
  __syncthreads();
  return true;
}

// The first of dealt keys, whole buckets of them and at most one a thread: what a thread ranks alone. Where the keys and the
// starts of the buckets lie is told anew each time, or what is known of their memory would be lost.
struct DealtRun {
  unsigned count;  // 0: there are none, the keys are in order
  SortBuckets buckets;

  // After deal_keys() of `all` keys.
  template <int kThreads, typename Key>
  __device__ __forceinline__ static DealtRun of(const Key* keys, unsigned all,
                                                const SortBuckets& buckets,
                                                const SortScratch<kThreads>* scratch) {
    const unsigned end =
        all <= kThreads ? all : scratch->start[buckets.of(sort_word(keys[kThreads]))];
    return {end, buckets};
  }

  // The place of a key of the run. Of its bucket it takes some side by side, as each comparison waits for a load.
  template <int kThreads, typename Key>
  __device__ __forceinline__ unsigned place_of(const Key* keys,
                                               const SortScratch<kThreads>* scratch,
                                               Key key) const {
    const unsigned bucket = buckets.of(sort_word(key)), first = scratch->start[bucket];
    const unsigned end = scratch->start[bucket + 1];
    unsigned place = first;
#pragma unroll 1
    for (unsigned i = first; i < end; i += kSortKeys) {
      Key other[kSortKeys];
#pragma unroll
      for (int v = 0; v < kSortKeys; ++v) other[v] = i + v < end ? keys[i + v] : key;
#pragma unroll
      for (int v = 0; v < kSortKeys; ++v) place += other[v] < key ? 1 : 0;
    }
    return place;
  }
};

}  // namespace ssd_cuda
