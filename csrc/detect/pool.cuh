// A CTA's pool of the best candidates: keys in shared (or global) memory, best = smallest.
//
// Warps append without a barrier. When a warp finds no room it stops; at the next barrier the CTA sorts the keys,
// keeps the best `keep`, and from then on only keys below the worst of those enter. So the pool always holds every
// offered key up to worst(), whatever the order of arrival, and a sort makes that order irrelevant: all keys differ.
#pragma once

#include "../common/launch.cuh"
#include "detect_options.h"

namespace ssd_cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

template <typename T>
struct PoolState {
  CandidateKey<T> worst;
  unsigned count;
  int cut;  // keys beyond worst were dropped
};

template <typename T>
struct Pool {
  using Key = CandidateKey<T>;
  Key* keys;            // [capacity]
  unsigned capacity;    // a power of two
  unsigned keep;        // at most capacity - 32
  PoolState<T>* state;  // shared memory

  // One thread; a barrier must follow.
  __device__ __forceinline__ void reset() const {
    state->worst = ~Key{0};
    state->count = 0;
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

  // All threads: keys [0, count) into ascending order by a bitonic network; [count, power of two) become ~0.
  __device__ __forceinline__ void sort() const {
    const unsigned count = state->count;
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

  // All threads: leaves the best `keep`.
  __device__ __forceinline__ void cut() const {
    sort();
    if (threadIdx.x == 0 && state->count > keep) {
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
      if (!__syncthreads_or(!done)) break;
      cut();
    }
  }

 private:
  // The place of the first of `added` new keys, or capacity.
  __device__ __forceinline__ unsigned reserve(unsigned added) const {
    unsigned seen = atomicAdd(&state->count, 0u);
    while (seen + added <= capacity) {
      const unsigned before = atomicCAS(&state->count, seen, seen + added);
      if (before == seen) return seen;
      seen = before;
    }
    return capacity;
  }
};

}  // namespace ssd_cuda
