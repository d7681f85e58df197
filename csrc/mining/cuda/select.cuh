// The k largest of one row by one block, ties to the lowest index.
//
//   radix selection on ordered keys: a histogram over a digit of at most 11 bits names the bucket of the k-th
//   key; the next digit looks inside that bucket only. The first digit starts at the highest bit in which the
//   row's keys differ: a trained row shares its top bits, an untrained one nearly all of them, and a
//   histogram over shared bits would be one counter that every thread adds to.
//   Ties: the same search over the indices of the keys that equal the threshold.
//
// Thread t owns indices t, t + kBlock, ...; keys stay in registers up to kBlock * kPerThread of them, beyond
// that in shared memory (55 K float keys on sm_90, 39 K on sm_80), beyond that they are loaded again in each of the
// at most 3 (uint64: 6) passes. Integer atomics in shared memory only: the result does not depend on the order of
// the threads.
#pragma once

#include "common/cuda/launch.cuh"
#include "mining/mining_rule.h"

namespace ssd_cuda {

constexpr int kSelectBlock = 1024;
constexpr int kSelectBits = 11;
constexpr int kSelectBins = 1 << kSelectBits;
constexpr int kSelectWarps = kSelectBlock / 32;
constexpr std::size_t kSelectStatic =
    10 * 1024;  // static shared memory of a kernel that selects, at most

// Where the keys of a row stay between passes, instead of a number of them a thread.
constexpr int kReload = 0, kInShared = -1;

// Shared memory of a selection.
struct SelectShared {
  unsigned histogram[kSelectBins];
  unsigned long long lows[kSelectWarps], highs[kSelectWarps];  // keys of either width
  unsigned warp_total[kSelectWarps];
  unsigned bucket, before, inside;
};
static_assert(sizeof(SelectShared) + 1024 <= kSelectStatic, "a kernel has scratch beside it");

// The keys of a row: index i is load(i). each(fn) calls fn(key, i) for the indices of this thread. load.with(fn) passes fn
// a function like load whose cases are decided: a branch at each load makes the loads wait for each other, and with them
// the mining of 32 rows took 15 us on an H200. For the same reason every thread loads, those beyond the end the last key.
template <int kPerThread, typename Load, typename U>
struct RowKeys {
  const Load& load;
  int64_t width;
  U held[kPerThread];

  __device__ RowKeys(const Load& loader, int64_t row_width) : load(loader), width(row_width) {
    if (width == 0) return;
    const int last = static_cast<int>(width - 1);
    load.with([&](const auto& from) {
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const int i = j * kSelectBlock + static_cast<int>(threadIdx.x);
        held[j] = from(i < last ? i : last);
      }
    });
  }
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int i = j * kSelectBlock + static_cast<int>(threadIdx.x);
      if (i < width) fn(held[j], static_cast<int64_t>(i));
    }
  }
};
template <typename Load, typename U>
struct RowKeys<kInShared, Load, U> {
  int64_t width;
  U* held;  // read by the thread that wrote it: no barrier

  __device__ RowKeys(const Load& load, int64_t row_width) : width(row_width) {
    SSD_DYNAMIC_SHARED(U, memory);
    held = memory;
    load.with([&](const auto& from) {
      for (int64_t i = threadIdx.x; i < width; i += kSelectBlock) held[i] = from(i);
    });
  }
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
    for (int64_t i = threadIdx.x; i < width; i += kSelectBlock) fn(held[i], i);
  }
};
template <typename Load, typename U>
struct RowKeys<kReload, Load, U> {
  const Load& load;
  int64_t width;

  __device__ RowKeys(const Load& loader, int64_t row_width) : load(loader), width(row_width) {}
  template <typename Fn>
  __device__ __forceinline__ void each(const Fn& fn) const {
    load.with([&](const auto& from) {
      for (int64_t i = threadIdx.x; i < width; i += kSelectBlock) fn(from(i), i);
    });
  }
};

__device__ __forceinline__ int highest_bit(unsigned long long value) {  // value > 0
  return 63 - __clzll(static_cast<long long>(value));
}

// The sum over the warp's values, the same on every lane.
__device__ __forceinline__ unsigned warp_sum(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
#else
  return __reduce_add_sync(0xffffffffu, value);
#endif
}

// The sums over the block's values, both with one barrier; scratch: of this call alone.
struct SumScratch {
  unsigned first[kSelectWarps], second[kSelectWarps];
};
__device__ __forceinline__ void block_sums(unsigned& first, unsigned& second, SumScratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  first = warp_sum(first);
  second = warp_sum(second);
  if (lane == 0) scratch.first[warp] = first, scratch.second[warp] = second;
  __syncthreads();
  first = warp_sum(scratch.first[lane]);
  second = warp_sum(scratch.second[lane]);
}

// fn over the block's values, the same on every thread; a tree of fixed shape, so a sum has fixed bits.
template <typename T, typename Fn>
__device__ __forceinline__ T block_reduce(T value, T* scratch,
                                          const Fn& fn) {  // scratch: [kSelectWarps]
  for (int step = 16; step > 0; step /= 2) {
    value = fn(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[threadIdx.x % kSelectWarps];
  for (int step = 16; step > 0; step /= 2) {
    value = fn(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

// The largest of the warp's numbers, the same on every lane.
template <typename U>
__device__ __forceinline__ U warp_max(U value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  constexpr bool kReduce = false;
#else
  constexpr bool kReduce = sizeof(U) == 4;
#endif
  if constexpr (kReduce) {
    return __reduce_max_sync(0xffffffffu, value);
  } else {
    for (int step = 16; step > 0; step /= 2) {
      const U other = __shfl_xor_sync(0xffffffffu, value, step);
      value = other > value ? other : value;
    }
    return value;
  }
}

// The smallest of all threads' lows and the largest of their highs, the same on every thread.
template <typename U>
__device__ __forceinline__ void block_extremes(U& low, U& high, SelectShared& shared) {
  low = ~warp_max(static_cast<U>(~low));
  high = warp_max(high);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) {
    shared.lows[threadIdx.x / 32] = low;
    shared.highs[threadIdx.x / 32] = high;
  }
  __syncthreads();
  low = ~warp_max(static_cast<U>(~static_cast<U>(shared.lows[lane])));
  high = warp_max(static_cast<U>(shared.highs[lane]));
}

// The bucket of the k-th entry counted from the last bin down; before: the entries in the bins above it.
__device__ inline void find_bucket(SelectShared& shared, int bins, unsigned k) {
  constexpr int kPerThread = kSelectBins / kSelectBlock;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  unsigned count[kPerThread], sum = 0;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int bin = bins - 1 - (t * kPerThread + j);
    count[j] = bin >= 0 ? shared.histogram[bin] : 0;
    sum += count[j];
  }
  unsigned through = sum;  // inclusive over the threads of the warp
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += other;
  }
  if (lane == 31) shared.warp_total[warp] = through;
  __syncthreads();
  unsigned before = warp_sum(lane < warp ? shared.warp_total[lane] : 0) + through - sum;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    if (before < k && k <= before + count[j]) {  // true for one j of one thread
      shared.bucket = static_cast<unsigned>(bins - 1 - (t * kPerThread + j));
      shared.before = before;
      shared.inside = count[j];
    }
    before += count[j];
  }
  __syncthreads();
}

// Entries that share `value` (from bit `shift` up): `inside` of them, `needed` of which are among the k.
template <typename U>
struct Bucket {
  U value;
  int shift;
  unsigned inside, needed;
};

// The k-th largest of the numbers that visit(fn) passes to fn. They agree with common above bit `top`. The
// search may stop early where the whole bucket is needed, unless kExact.
template <bool kExact, typename U, typename Visit>
__device__ Bucket<U> find_kth(const Visit& visit, U common, int top, unsigned k, unsigned total,
                              SelectShared& shared) {
  constexpr int kBits = 8 * sizeof(U);
  Bucket<U> bucket{common, top + 1, total, k};
  if (bucket.shift < kBits) {
    bucket.value = bucket.value >> bucket.shift << bucket.shift;
  } else {
    bucket.value = 0;
  }
  while (bucket.shift > 0 && (kExact || bucket.needed < bucket.inside)) {
    const int shift = bucket.shift > kSelectBits ? bucket.shift - kSelectBits : 0;
    const int bins = 1 << (bucket.shift - shift);
    for (int i = static_cast<int>(threadIdx.x); i < bins; i += kSelectBlock) {
      shared.histogram[i] = 0;
    }
    __syncthreads();
    const U value = bucket.value;
    const int above = bucket.shift;
    visit([&](U number) {
      const U rest = number ^ value;
      if (above >= kBits || (rest >> (above % kBits)) == 0) {
        atomicAdd(&shared.histogram[static_cast<unsigned>(number >> shift) & (bins - 1)], 1u);
      }
    });
    __syncthreads();
    find_bucket(shared, bins, bucket.needed);
    bucket.needed -= shared.before;
    bucket.inside = shared.inside;
    bucket.value |= static_cast<U>(shared.bucket) << shift;
    bucket.shift = shift;
    __syncthreads();  // the next round writes what this one read
  }
  return bucket;
}

// The selection of one row; every thread of the block gets it. kExact: threshold and tie are the last selected
// key and its index; else they only select the same rows, which often saves a pass.
template <bool kExact, typename U, typename Keys>
__device__ RowCut<U> select_row(const Keys& keys, int64_t k, SelectShared& shared) {
  constexpr int64_t kAny = int64_t{1} << 62;
  if (k > keys.width) k = keys.width;
  if (k <= 0) return empty_cut<U>();
  U low = ~U{0}, high = 0;
  keys.each([&](U key, int64_t) {
    low = key < low ? key : low;
    high = key > high ? key : high;
  });
  block_extremes(low, high, shared);
  const int top = low == high ? -1 : highest_bit(low ^ high);
  const auto numbers = [&](const auto& fn) { keys.each([&](U key, int64_t) { fn(key); }); };
  const auto bucket = find_kth<kExact, U>(numbers, low, top, static_cast<unsigned>(k),
                                          static_cast<unsigned>(keys.width), shared);
  if (!kExact && bucket.needed == bucket.inside) return {bucket.value, kAny};
  // Lower index, larger number.
  const unsigned last = static_cast<unsigned>(keys.width - 1);
  const auto indices = [&](const auto& fn) {
    keys.each([&](U key, int64_t i) {
      if (key == bucket.value) fn(last - static_cast<unsigned>(i));
    });
  };
  const auto tie = find_kth<true, unsigned>(indices, 0u, last == 0 ? -1 : highest_bit(last),
                                            bucket.needed, bucket.inside, shared);
  return {bucket.value, static_cast<int64_t>(last - tie.value)};
}

// Launches kernel_of(std::integral_constant<int, kPerThread>), one block a row: rows of up to 9 K and 12 K float
// keys stay in registers (8732 is 9 a thread); longer ones, and double keys, which would not fit, in shared memory.
template <typename T, typename Args, typename KernelOf>
inline cudaError_t launch_rows(int64_t width, int64_t batch, const Args& args, cudaStream_t stream,
                               const KernelOf& kernel_of) {
  const auto launch_held = [&](auto held, std::size_t bytes) {
    return launch(kernel_of(held), dim3(static_cast<unsigned>(batch)), dim3(kSelectBlock), bytes,
                  stream, args);
  };
  if constexpr (sizeof(T) == 4) {
    if (width <= 9 * kSelectBlock) return launch_held(std::integral_constant<int, 9>{}, 0);
    if (width <= 12 * kSelectBlock) return launch_held(std::integral_constant<int, 12>{}, 0);
  }
  const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(T);
  if (bytes <= dynamic_shared_room(kSelectStatic)) {
    return launch_held(std::integral_constant<int, kInShared>{}, bytes);
  }
  return launch_held(std::integral_constant<int, kReload>{}, 0);
}

}  // namespace ssd_cuda
