// The k largest of one row by one block, ties to the lowest index.
//
//   radix selection on ordered keys: a histogram over their 12 leading bits (a float's sign, exponent and three bits of
//   its mantissa), counted before k is known, names the bucket of the k-th key. Where the bucket has at most kListed keys
//   they are listed with their indices and eight lanes count for each of them how many are better: the one with as many as
//   wanted is the cut. Else the next 12 bits are counted, inside that bucket only.
//   Ties by the hundred: the same search over the indices of the keys that equal the threshold.
//
// Keys that share a digit add to one counter; the lanes of a warp do so in one operation (ATOMS.POPC.INC). Passes over the
// keys: one for the histogram, one for the list (two where they are in registers), up to 2 (uint64: 5) more digits and 3 for
// ties. Integer atomics in shared memory only, and the places in the list, which depend on their order, are not looked at:
// the result does not depend on the order of the threads.
#pragma once

#include "block_sums.cuh"
#include "mining/mining_rule.h"

namespace ssd_cuda {

constexpr int kSelectBits = 12;
constexpr int kSelectBins = 1 << kSelectBits;
constexpr int kThreadBins = kSelectBins / kSelectBlock;
constexpr unsigned kRankLanes = 8;                       // that rank one key of the list
constexpr unsigned kListed = kSelectBlock / kRankLanes;  // all ranked at once
constexpr int64_t kAnyTie = int64_t{1} << 62;
template <typename U>
constexpr int kFirstShift = 8 * sizeof(U) - kSelectBits;  // of the first digit

// Shared memory of the search for one bucket.
struct SearchShared {
  alignas(16) unsigned histogram[kSelectBins + 1];  // the last: of what is no key
  unsigned warp_total[kSelectWarps];
  uint4 found;  // of find_bucket: the bucket, the entries before it, those inside
};

// Shared memory of a selection.
template <typename U>
struct alignas(2 * sizeof(U)) Listed {
  U key, index;  // as wide: one load or store for both
};
template <typename U>
struct SelectShared : SearchShared {
  Listed<U> list[kListed];
  unsigned listed;  // so many; their order depends on that of the threads
  Listed<U> cut;
};
static_assert(sizeof(SelectShared<uint64_t>) + 1024 <= kSelectStatic,
              "a kernel has scratch beside it");

// All counters 0; a barrier must follow.
__device__ __forceinline__ void clear_histogram(SearchShared& shared) {
#pragma unroll
  for (int j = 0; j < kThreadBins; ++j) {
    shared.histogram[kThreadBins * static_cast<int>(threadIdx.x) + j] = 0;
  }
}

// What a kernel that selects begins with, before after_previous_kernel(): shared memory is ready by then.
template <typename U>
__device__ __forceinline__ void begin_selection(SelectShared<U>& shared) {
  clear_histogram(shared);
  if (threadIdx.x == 0) shared.histogram[kSelectBins] = shared.listed = 0;
  if (threadIdx.x < kListed) shared.list[threadIdx.x] = {U{0}, ~U{0}};  // better than no key
  __syncthreads();
}

// The first digits of a row's keys, after begin_selection(); a barrier must follow.
template <typename U, typename Keys>
__device__ __forceinline__ void count_first_digit(const Keys& keys, SearchShared& shared) {
  keys.all([&](U key, bool real) {
    const unsigned bin = static_cast<unsigned>(key >> kFirstShift<U>);
    atomicAdd(&shared.histogram[real ? bin : kSelectBins], 1u);
  });
}

// A thread's bins of the histogram, the highest first, and their sum; through: with those of the lanes before it.
struct Scan {
  unsigned count[kThreadBins], sum, through;
};
__device__ __forceinline__ Scan scan_histogram(SearchShared& shared) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  Scan scan{};
#pragma unroll
  for (int j = 0; j < kThreadBins; ++j) {
    scan.count[j] = shared.histogram[kSelectBins - 1 - (kThreadBins * t + j)];
    scan.sum += scan.count[j];
  }
  scan.through = scan.sum;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(kFullWarp, scan.through, step);
    if (lane >= step) scan.through += other;
  }
  if (lane == 31) shared.warp_total[t / 32] = scan.through;
  return scan;
}

// The bucket of the k-th entry counted from the last bin down, 1 <= k <= entries.
struct Found {
  unsigned bucket, before, inside;  // before: the entries in the bins above it
};
__device__ __forceinline__ Found find_bucket(const Scan& scan, unsigned k, SearchShared& shared) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  __syncthreads();
  unsigned before = warp_sum(lane < warp ? shared.warp_total[lane] : 0) + scan.through - scan.sum;
  if (before < k && k <= before + scan.sum) {  // one thread
    unsigned bin = kSelectBins - 1 - kThreadBins * t, inside = scan.count[0], through = before;
#pragma unroll
    for (int j = 1; j < kThreadBins; ++j) {
      through += scan.count[j - 1];
      if (through < k) {
        bin = kSelectBins - 1 - (kThreadBins * t + j), before = through, inside = scan.count[j];
      }
    }
    shared.found = uint4{bin, before, inside, 0};
  }
  __syncthreads();
  const uint4 found = shared.found;
  return {found.x, found.y, found.z};
}

// Numbers that share `value` (from bit `shift` up): `inside` of them, `needed` of which are among the k.
template <typename U>
struct Bucket {
  U value;
  int shift;
  unsigned inside, needed;

  __device__ __forceinline__ bool holds(U number) const {
    return (number ^ value) < U{1} << shift;  // shift: less than the bits of a number
  }
  // Whether all of them are among the k.
  __device__ __forceinline__ bool whole() const { return needed == inside; }
  // Whether they are to be listed. kExact: see select_row.
  template <bool kExact>
  __device__ __forceinline__ bool listed() const {
    return inside <= kListed && (kExact || !whole());
  }
};

// The next digit of the search among the numbers that visit(fn) passes to fn.
template <typename U, typename Visit>
__device__ __forceinline__ Bucket<U> next_digit(const Visit& visit, const Bucket<U>& bucket,
                                                SearchShared& shared) {
  const int shift = bucket.shift > kSelectBits ? bucket.shift - kSelectBits : 0;
  const unsigned digit = (1u << (bucket.shift - shift)) - 1;
  clear_histogram(shared);
  __syncthreads();
  visit([&](U number) {
    if (bucket.holds(number)) {
      atomicAdd(&shared.histogram[static_cast<unsigned>(number >> shift) & digit], 1u);
    }
  });
  __syncthreads();
  const Found found = find_bucket(scan_histogram(shared), bucket.needed, shared);
  return {bucket.value | static_cast<U>(found.bucket) << shift, shift, found.inside,
          bucket.needed - found.before};
}

// Lists the keys of the bucket, at most kListed of them. By one addition a thread where a pass costs little: each is waited
// for.
template <typename U, typename Keys>
__device__ __forceinline__ void list_keys(const Keys& keys, const Bucket<U>& bucket,
                                          SelectShared<U>& shared) {
  if constexpr (Keys::kInRegisters) {
    unsigned own = 0;
    keys.each([&](U key, auto) { own += bucket.holds(key); });
    if (own == 0) return;
    Listed<U>* to = shared.list + atomicAdd(&shared.listed, own);
    keys.each([&](U key, auto i) {
      if (bucket.holds(key)) *to++ = {key, static_cast<U>(i)};
    });
  } else {
    keys.each([&](U key, auto i) {
      if (bucket.holds(key)) {
        shared.list[atomicAdd(&shared.listed, 1u)] = {key, static_cast<U>(i)};
      }
    });
  }
}

// How many of `count` listed keys are better than the one of this thread, which kRankLanes neighbours share: the same on each
// of them. By whole warps. The counts of a warp's keys are added in one number, a byte each.
template <typename U>
__device__ __forceinline__ unsigned rank_listed(const Listed<U>& own, unsigned count,
                                                const SelectShared<U>& shared) {
  constexpr unsigned kAhead = 4;
  static_assert(kListed < 256 && kListed % (kRankLanes * kAhead) == 0 && 32 / kRankLanes == 4);
  const unsigned lane = threadIdx.x % 32;
  unsigned better = 0;
#pragma unroll 1
  for (unsigned first = 0; first < count; first += kRankLanes * kAhead) {
#pragma unroll
    for (unsigned j = 0; j < kAhead; ++j) {
      const Listed<U> other = shared.list[first + kRankLanes * j + lane % kRankLanes];
      better += (other.key > own.key) | ((other.key == own.key) & (other.index < own.index));
    }
  }
  const unsigned byte = lane / kRankLanes * 8;
  return warp_sum(better << byte) >> byte & 0xffu;
}

// fn(listed, better) for each key of the bucket, at most kListed, by one thread: the key with its index and how many of the
// bucket are better. A barrier must follow before other threads see what fn leaves.
template <typename U, typename Keys, typename Fn>
__device__ __forceinline__ void each_listed(const Keys& keys, const Bucket<U>& bucket,
                                            SelectShared<U>& shared, const Fn& fn) {
  list_keys(keys, bucket, shared);
  __syncthreads();
  const unsigned place = threadIdx.x / kRankLanes;
  if (place / 4 * 4 >= bucket.inside) return;  // whole warps
  const Listed<U> own = shared.list[place];
  const unsigned better = rank_listed(own, bucket.inside, shared);
  if (place < bucket.inside && threadIdx.x % kRankLanes == 0) fn(own, better);
}

// The bucket in which the search for the k-th key ends, 1 <= k <= keys.width, by all threads of a row whose first digits are
// counted: all of it is wanted (where !kExact), it has at most kListed keys, or they are all the same.
template <bool kExact, typename U, typename Keys>
__device__ __forceinline__ Bucket<U> search_bucket(const Keys& keys, unsigned k, const Scan& scan,
                                                   SelectShared<U>& shared) {
  const Found found = find_bucket(scan, k, shared);
  Bucket<U> bucket{static_cast<U>(found.bucket) << kFirstShift<U>, kFirstShift<U>, found.inside,
                   k - found.before};
  const auto numbers = [&](const auto& fn) { keys.each([&](U key, auto) { fn(key); }); };
  while (bucket.inside > kListed && bucket.shift > 0 && (kExact || !bucket.whole())) {
    bucket = next_digit(numbers, bucket, shared);
  }
  return bucket;
}

// The selection where all of a bucket is wanted (and not kExact), or where its keys are all the same: ties by the hundred.
template <bool kExact, typename U, typename Keys>
__device__ __forceinline__ RowCut<U> cut_unlisted(const Keys& keys, const Bucket<U>& bucket,
                                                  SelectShared<U>& shared) {
  if (!kExact && bucket.whole()) return {bucket.value, kAnyTie};
  // Lower index, larger number.
  const unsigned last = static_cast<unsigned>(keys.width - 1);
  const auto indices = [&](const auto& fn) {
    keys.each([&](U key, auto i) {
      if (key == bucket.value) fn(last - static_cast<unsigned>(i));
    });
  };
  Bucket<unsigned> tie{0, 32 - __clz(static_cast<int>(last)), bucket.inside, bucket.needed};
  while (tie.shift > 0) tie = next_digit(indices, tie, shared);
  return {bucket.value, static_cast<int64_t>(last - tie.value)};
}

// The selection of one row whose first digits are counted; every thread of the block gets it. kExact: threshold and tie
// are the last selected key and its index; else they only select the same rows.
template <bool kExact, typename U, typename Keys>
__device__ __forceinline__ RowCut<U> select_row(const Keys& keys, int64_t k, const Scan& scan,
                                                SelectShared<U>& shared) {
  if (k > keys.width) k = keys.width;
  if (k <= 0) return empty_cut<U>();
  const Bucket<U> bucket = search_bucket<kExact>(keys, static_cast<unsigned>(k), scan, shared);
  if (!bucket.template listed<kExact>()) return cut_unlisted<kExact>(keys, bucket, shared);
  each_listed(keys, bucket, shared, [&](const Listed<U>& own, unsigned better) {
    if (better == bucket.needed - 1) shared.cut = own;
  });
  __syncthreads();
  const Listed<U> cut = shared.cut;
  return {cut.key, static_cast<int64_t>(cut.index)};
}

}  // namespace ssd_cuda
