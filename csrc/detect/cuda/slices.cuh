// What the slices of an image have stored, as the CTA of the image reads it.
//
// Where no slice has dropped a candidate and all fit, as in nearly every image of a trained head, they are read in two
// latencies: the counts of all slices, then all keys. Else a warp takes a slice at a time, and the pool drops the worst.
#pragma once

#include "scan.cuh"

namespace ssd_cuda {

constexpr int kImageThreads = 512;
constexpr int kMostSlices = 256;
constexpr unsigned kSliceCapacity = 1024, kSliceKeep = 512;
constexpr unsigned kImageCapacity = 2048, kImageKeep = 1024;
static_assert(kMostSlices <= kImageThreads, "a thread a slice");

// In shared memory.
struct SlicePlaces {
  unsigned first[kMostSlices + 1];  // of a slice's keys among all, then their number
  // On a boundary of its own, so that reading it in words of 16 bytes does not touch what others write beside it.
  alignas(16) unsigned sums[kMostSlices / 32];
};

template <typename T>
struct StoredSlices {
  using Key = CandidateKey<T>;
  const Key* keys;         // [slices, kSliceCapacity]
  const Key* worst;        // [slices] ~0: the slice kept everything
  const unsigned* counts;  // [slices]
  int slices;

  // All threads; a barrier must follow. Every candidate up to the key that is returned is stored.
  __device__ __forceinline__ Key measure(SlicePlaces* places) const {
    const int t = static_cast<int>(threadIdx.x), lane = t % 32;
    const unsigned count = t < slices ? counts[t] : 0;
    Key bound = ~Key{0};
    const bool dropped = t < slices && worst[t] != bound;
    unsigned inclusive = count;
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned other = __shfl_up_sync(kFullWarp, inclusive, offset);
      if (lane >= offset) inclusive += other;
    }
    if (t < kMostSlices && lane == 31) places->sums[t / 32] = inclusive;
    if (__syncthreads_or(dropped)) {
      for (int s = 0; s < slices; ++s) bound = worst[s] < bound ? worst[s] : bound;
    }
    if (t < kMostSlices) {
      unsigned before = inclusive - count;
#pragma unroll
      for (int w = 0; w < kMostSlices / 32; ++w) {  // all are read, 16 bytes at a time
        const unsigned sum = places->sums[w];
        before += w < t / 32 ? sum : 0;
      }
      places->first[t] = before;
      if (t == kMostSlices - 1) places->first[kMostSlices] = before + count;
    }
    return bound;
  }

  // After a barrier: whether copy() may take the place of fill().
  __device__ __forceinline__ static bool fit(const SlicePlaces* places, Key bound) {
    return bound == ~Key{0} && places->first[kMostSlices] <= kImageCapacity;
  }

  // All threads: all keys as read_keys() would have them of an empty pool into which they go, but for those beyond their
  // number, which nobody reads. Returns it.
  __device__ __forceinline__ unsigned copy(const SlicePlaces* places,
                                           Key (&found)[kSortKeys]) const {
    const unsigned count = places->first[kMostSlices];
    constexpr int kEach = kSortKeys;
    static_assert(kEach * kImageThreads == kImageCapacity);
    // The last slice that begins at a key or before, for all keys of the thread side by side: a search is a chain of loads. A
    // batch has few slices an image, which need only the last steps.
    int slice[kEach] = {};
    const auto search = [&](int most, int least) {
#pragma unroll
      for (int step = most; step >= least; step /= 2) {
#pragma unroll
        for (int u = 0; u < kEach; ++u) {
          if (places->first[slice[u] + step] <= threadIdx.x + u * kImageThreads) slice[u] += step;
        }
      }
    };
    constexpr int kFew = 16;
    if (slices > kFew) search(kMostSlices / 2, kFew);
    search(kFew / 2, 1);
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      const unsigned i = threadIdx.x + u * kImageThreads;
      if (i < count) {
        const unsigned place = i - places->first[slice[u]];
        found[u] = keys[slice[u] * static_cast<int64_t>(kSliceCapacity) + place];
      }
    }
    return count;
  }

  // All threads: the keys in (range.after, bound].
  template <typename P>
  __device__ __forceinline__ void fill(const ScanRange<T>& range, Key bound, const P& pool) const {
    int slice = static_cast<int>(threadIdx.x / 32);
    unsigned done = 0;
    pool.fill([&] {
      for (; slice < slices; slice += kImageThreads / 32, done = 0) {
        const unsigned count = counts[slice];
        while (done < count) {
          constexpr int kLoads = sizeof(T) == 8 ? 2 : 4;  // in flight at a time
          const Key* next = keys + slice * static_cast<int64_t>(kSliceCapacity) + done;
          const unsigned lane = threadIdx.x % 32, left = count - done;
          Key found[kLoads];
#pragma unroll
          for (int u = 0; u < kLoads; ++u) {
            found[u] = lane + 32 * u < left ? next[lane + 32 * u] : 0;
          }
#pragma unroll
          for (int u = 0; u < kLoads; ++u) {
            const bool wanted = lane + 32 * u < left && found[u] <= bound &&
                                (!range.after_any || found[u] > range.after);
            if (!pool.append(wanted, found[u])) return false;
            done += 32;
          }
        }
      }
      return true;
    });
  }
};

}  // namespace ssd_cuda
