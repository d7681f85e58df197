// A CTA's pool of the best candidates: keys in shared (or global) memory, best = smallest.
//
// Warps append without a barrier. When one finds no room it stops; at the next barrier the CTA sorts the keys,
// keeps the best `keep`, and from then on only keys below the worst of those enter. So the pool always holds every
// offered key up to worst(), whatever the order of arrival, and a sort makes that order irrelevant: all keys differ.
#pragma once

#include "bucket_sort.cuh"

namespace ssd_cuda {

template <typename T>
struct PoolState {
  CandidateKey<T> worst;
  unsigned count;  // places given away
  unsigned full;   // the place from which on there was no room, or ~0
  int cut;         // keys beyond worst were dropped
};

// kThreads: the threads of the CTA when its keys are in shared memory and bucket_sort may sort them, or 0.
template <typename T, int kThreads>
struct Pool {
  using Key = CandidateKey<T>;
  Key* keys;            // [capacity]
  unsigned capacity;    // a power of two
  unsigned keep;        // at most capacity - 32
  PoolState<T>* state;  // shared memory
  SortScratch<kThreads>* scratch;

  // One thread; a barrier must follow.
  __device__ __forceinline__ void reset() const {
    state->worst = ~Key{0};
    state->count = 0;
    state->full = ~0u;
    state->cut = 0;
  }

  // All lanes of a warp. False, and nothing appended, when there is no room for the keys that belong in.
  __device__ __forceinline__ bool append(bool wanted, Key key) const {
    const unsigned lanes = __ballot_sync(kFullWarp, wanted && key < state->worst);
    if (lanes == 0) return true;
    const unsigned lane = threadIdx.x % 32, added = static_cast<unsigned>(__popc(lanes));
    unsigned place = capacity;
    if (lane == 0) place = reserve(added);
    place = __shfl_sync(kFullWarp, place, 0);
    if (place == capacity) return false;
    if (lanes >> lane & 1u) keys[place + __popc(lanes & ((1u << lane) - 1u))] = key;
    return true;
  }

  // All threads, after a barrier: keys [0, count) into ascending order.
  __device__ __forceinline__ void sort() const {
    const unsigned count = state->count;
    if constexpr (kThreads > 0) {
      if (bucket_sort<kThreads>(keys, count, scratch)) return;
    }
    bitonic_sort(count);
  }

  // All threads: deals the keys [begin, count), which they hold and which are greater than those before, to buckets;
  // first_run() is then to be ranked. False: all keys are in order.
  __device__ __forceinline__ bool deal(unsigned begin, unsigned count, const Key (&held)[kSortKeys],
                                       SortBuckets& buckets) const {
    unsigned bucket[kSortKeys];
    if (deal_keys(keys + begin, count - begin, scratch, buckets, held, bucket)) return true;
#pragma unroll
    for (int u = 0; u < kSortKeys; ++u) {  // nothing but a thread may hold them yet
      const unsigned i = begin + threadIdx.x + u * kThreads;
      if (i < count) keys[i] = held[u];
    }
    bitonic_sort(count);  // from the first on: a power of two of them has room
    return false;
  }
  __device__ __forceinline__ DealtRun first_run(unsigned begin, unsigned count,
                                                const SortBuckets& buckets) const {
    return DealtRun::of(keys + begin, count - begin, buckets, scratch);
  }

  // All threads, after a barrier: leaves the best `keep`. The count is read before the sort, by all: where only one thread
  // asks for it, compilers let all read it beside that thread's write, which racecheck reports.
  __device__ __forceinline__ void cut() const {
    const unsigned count = state->count;
    sort();
    if (threadIdx.x == 0 && count > keep) {
      state->count = keep;
      state->worst = keys[keep - 1];
      state->cut = 1;
    }
    __syncthreads();
  }

  // All threads. step() is called by whole warps until it returns true (the warp is done) or false (no room: it
  // will be called again after a cut, and must go on where it stopped).
  template <typename Step>
  __device__ __forceinline__ void fill(Step step) const {
    bool done = false;
    while (true) {
      if (!done) done = step();
      const bool again = __syncthreads_or(!done);
      if (threadIdx.x == 0 && state->full < state->count) state->count = state->full;
      if (threadIdx.x == 0) state->full = ~0u;
      __syncthreads();
      if (!again) break;
      cut();
    }
  }

 private:
  // A bitonic network; [count, power of two) become ~0.
  __device__ __forceinline__ void bitonic_sort(unsigned count) const {
    unsigned size = 2;
    while (size < count) size *= 2;
    for (unsigned i = count + threadIdx.x; i < size; i += blockDim.x) keys[i] = ~Key{0};
    __syncthreads();
    for (unsigned run = 2; run <= size; run *= 2) {
      for (unsigned step = run / 2; step > 0; step /= 2) {
        for (unsigned i = threadIdx.x; i < size / 2; i += blockDim.x) {
          const unsigned a = 2 * i - (i & (step - 1)), b = a + step;
          const Key x = keys[a], y = keys[b];
          if ((x > y) == ((a & run) == 0)) keys[a] = y, keys[b] = x;
        }
        __syncthreads();
      }
    }
  }

  // The place of the first of `added` new keys, or capacity. Once a warp found no room nobody does until the next
  // barrier: the places before `full` are those in use.
  __device__ __forceinline__ unsigned reserve(unsigned added) const {
    const unsigned place = atomicAdd(&state->count, added);
    if (place + added <= capacity) return place;
    atomicMin(&state->full, place);
    return capacity;
  }
};

}  // namespace ssd_cuda
