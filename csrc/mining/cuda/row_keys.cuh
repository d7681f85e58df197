// The keys of a row in a block of 1024 threads, and launches by the width of the rows.
//
// Thread t owns indices t, t + kSelectBlock, ...; keys stay in registers up to kSelectBlock * kPerThread of them, beyond
// that in shared memory (51 K float keys on sm_90, 35 K on sm_80, none on sm_75), beyond that they are loaded again in each pass.
#pragma once

#include "common/cuda/launch.cuh"

namespace ssd_cuda {

constexpr int kSelectBlock = 1024;
constexpr int kSelectWarps = kSelectBlock / 32;
constexpr std::size_t kSelectStatic =
    20 * 1024;  // static shared memory of a kernel that selects, at most

// Where the keys of a row stay between passes, instead of a number of them a thread.
constexpr int kReload = 0, kInShared = -1;

// Keys a thread of rows in registers: each form is for rows that are too long for the one before, so that some keys are
// real in every thread and need no test. 9 is for the 8732 priors of SSD300.
constexpr int kForms[] = {8, 9, 12};
template <int kPerThread>
constexpr int kCertain = kPerThread == kForms[2]   ? kForms[1]
                         : kPerThread == kForms[1] ? kForms[0]
                                                   : 0;

// Of a source that leaves every key as it is.
template <typename U>
struct Unlimited {
  __device__ __forceinline__ static constexpr bool is_limited() { return false; }
  __device__ __forceinline__ static unsigned char may(int64_t) { return 1; }
  __device__ __forceinline__ static U limited(U key, unsigned char, bool) { return key; }
};

// The key at i from the source that a loader passes on, see RowKeys.
template <typename Source>
__device__ __forceinline__ auto key_at(const Source& source, int64_t i) {
  const auto key = source.key(source.fetch(i), true);
  return source.is_limited() ? source.limited(key, source.may(i), true) : key;
}

// The keys of a row. each(fn) calls fn(key, i) for the indices of this thread. load.with(fn) passes fn a source whose type
// is decided: source.fetch(i) loads what lies at i, source.key(fetched, real) makes the key of it, and where the source
// is_limited() source.limited(key, source.may(i), real) what is left of the key. The loads come first, with no branch at
// each, else they wait for each other: mining of 32 rows took 15 us on an H200 where each load had two branches, 11.5 with
// one. For the same reason every thread loads, those beyond the end the last key, which is not real then.
template <int kPerThread, typename Load, typename U>
struct RowKeys {
  static constexpr bool kInRegisters = true;
  using Index = int;
  Index width;
  U held[kPerThread];

  __device__ RowKeys(const Load& load, int64_t row_width) : width(static_cast<Index>(row_width)) {
    if (width == 0) return;
    const int t = static_cast<int>(threadIdx.x), last = width - 1;
    load.with([&](const auto& source) {
      const auto place = [&](int j) {
        const int i = j * kSelectBlock + t;
        return static_cast<unsigned>(j < kCertain<kPerThread> || i < last ? i : last);
      };
      decltype(source.fetch(0)) fetched[kPerThread];
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) fetched[j] = source.fetch(place(j));
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) held[j] = source.key(fetched[j], is_real(j));
      if (!source.is_limited()) return;
      unsigned char may[kPerThread];
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) may[j] = source.may(place(j));
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) held[j] = source.limited(held[j], may[j], is_real(j));
    });
  }
  // Whether there is a j-th key in this thread.
  __device__ __forceinline__ bool is_real(int j) const {
    return j < kCertain<kPerThread> || j * kSelectBlock < width - static_cast<int>(threadIdx.x);
  }
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
    const int t = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (is_real(j)) fn(held[j], j * kSelectBlock + t);
    }
  }
  // fn(key, real) for as many keys in every thread: no branch.
  template <typename Fn>
  __device__ __forceinline__ void all(const Fn& fn) const {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) fn(held[j], is_real(j));
  }
};
template <typename Load, typename U>
struct RowKeys<kInShared, Load, U> {
  static constexpr bool kInRegisters = false;
  using Index = int;
  Index width;
  U* held;  // read by the thread that wrote it: no barrier

  __device__ RowKeys(const Load& load, int64_t row_width) : width(static_cast<Index>(row_width)) {
    SSD_DYNAMIC_SHARED(U, memory);
    held = memory;
    load.with([&](const auto& source) {
      for (Index i = threadIdx.x; i < width; i += kSelectBlock) {
        held[i] = key_at(source, i);
      }
    });
  }
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
#pragma unroll 1  // the other warps hide what a load from shared memory takes
    for (Index i = threadIdx.x; i < width; i += kSelectBlock) fn(held[i], i);
  }
  template <typename Fn>
  __device__ __forceinline__ void all(const Fn& fn) const {
    each([&](U key, Index) { fn(key, true); });
  }
};
template <typename Load, typename U>
struct RowKeys<kReload, Load, U> {
  static constexpr bool kInRegisters = false;
  using Index = int64_t;
  const Load& load;
  Index width;

  __device__ RowKeys(const Load& loader, int64_t row_width) : load(loader), width(row_width) {}
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
    load.with([&](const auto& source) {
      for (Index i = threadIdx.x; i < width; i += kSelectBlock) {
        fn(key_at(source, i), i);
      }
    });
  }
  template <typename Fn>
  __device__ __forceinline__ void all(const Fn& fn) const {
    each([&](U key, Index) { fn(key, true); });
  }
};

// Launches kernel_of(std::integral_constant<int, kPerThread>), one block a row: rows of up to 12 K float keys stay in
// registers; longer ones, and double keys, which would not fit, in shared memory.
template <typename T, typename Args, typename KernelOf>
inline cudaError_t launch_rows(int64_t width, int64_t batch, const Args& args, cudaStream_t stream,
                               const KernelOf& kernel_of) {
  const auto launch_held = [&](auto held, std::size_t bytes) {
    return launch(kernel_of(held), dim3(static_cast<unsigned>(batch)), dim3(kSelectBlock), bytes,
                  stream, args);
  };
  if constexpr (sizeof(T) == 4) {
    if (width <= kForms[0] * kSelectBlock) {
      return launch_held(std::integral_constant<int, kForms[0]>{}, 0);
    }
    if (width <= kForms[1] * kSelectBlock) {
      return launch_held(std::integral_constant<int, kForms[1]>{}, 0);
    }
    if (width <= kForms[2] * kSelectBlock) {
      return launch_held(std::integral_constant<int, kForms[2]>{}, 0);
    }
  }
  const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(T);
  if (bytes <= dynamic_shared_room(kSelectStatic)) {
    return launch_held(std::integral_constant<int, kInShared>{}, bytes);
  }
  return launch_held(std::integral_constant<int, kReload>{}, 0);
}

}  // namespace ssd_cuda
