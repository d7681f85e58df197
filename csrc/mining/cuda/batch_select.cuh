// The k largest of one long row by as many blocks as it takes, ties to the lowest index: the mining of a whole batch.
//
//   radix selection as in select.cuh, a launch a digit. Each block counts the digits of its keys in shared memory and adds
//   what it counted to the histogram of the launch; the block that arrives last names the bucket of the k-th key. Where the
//   k are known after a digit the launches that are left end at once.
//   Ties: each block counts its keys that equal the threshold; the last one finds the block, then the key, of the last
//   that is needed.
//
// Bytes: the keys are read once a digit, three times (uint64: six), and once for the ties, from L2 in part; 16 KB a digit and
// block added. Integer sums and tickets alone: the result does not depend on the order of the blocks. The host reads
// nothing; counters are set to 0 by a launch, so nothing outlives a call.
#pragma once

#include "select.cuh"

namespace ssd_cuda {

constexpr int kTieKeys = 2 * kSelectBlock;  // a block of tie_kernel

// What the launches of one selection hand on.
template <typename U>
struct BatchSearch {
  static constexpr int kDigits = (8 * sizeof(U) + kSelectBits - 1) / kSelectBits;
  unsigned histograms[kDigits][kSelectBins];
  unsigned arrived[kDigits + 3];  // tickets: of the digits, the ties, what comes before and after
  unsigned positives, excluded;
  Bucket<U> bucket;  // in which the k-th key lies; needed 0: nothing is selected
  RowCut<U> cut;

  // Sets the search out, by one thread, when the counters are 0.
  __device__ __forceinline__ void start(int64_t k, int64_t total) {
    const int64_t most = k < total ? k : total;
    bucket = {U{0}, static_cast<int>(8 * sizeof(U)), static_cast<unsigned>(total),
              static_cast<unsigned>(most > 0 ? most : 0)};
  }
  // Whether no digit is left to look at.
  __device__ __forceinline__ static bool found(const Bucket<U>& bucket) {
    return bucket.shift == 0 || bucket.needed == 0 || bucket.needed == bucket.inside;
  }
};

// Sets all counters to 0.
template <typename U>
__global__ void __launch_bounds__(kSelectBlock) batch_clear_kernel(BatchSearch<U>* search) {
  after_previous_kernel();
  const int t = static_cast<int>(threadIdx.x);
  for (int digit = 0; digit < BatchSearch<U>::kDigits; ++digit) {
    for (int i = t; i < kSelectBins; i += kSelectBlock) search->histograms[digit][i] = 0;
  }
  if (t < BatchSearch<U>::kDigits + 3) search->arrived[t] = 0;
  if (t == 0) search->positives = search->excluded = 0;
}

// Whether this block is the last of the launch to arrive, the same on every thread. What all blocks wrote before is seen after.
__device__ __forceinline__ bool arrives_last(unsigned* ticket, bool& shared_last) {
  __threadfence();  // of every thread: each wrote
  __syncthreads();
  if (threadIdx.x == 0) {
    shared_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  __threadfence();
  return shared_last;
}

// One digit of the search over keys [total].
template <typename U>
__global__ void __launch_bounds__(kSelectBlock)
    batch_digit_kernel(const U* keys, int64_t total, int digit, BatchSearch<U>* search) {
  after_previous_kernel();
  constexpr int kBits = 8 * sizeof(U);
  __shared__ SearchShared shared;
  __shared__ bool last;
  Bucket<U> bucket = search->bucket;
  if (BatchSearch<U>::found(bucket)) return;
  const int shift = bucket.shift > kSelectBits ? bucket.shift - kSelectBits : 0;
  const int bins = 1 << (bucket.shift - shift);
  clear_histogram(shared);
  __syncthreads();
  const int64_t step = int64_t{gridDim.x} * kSelectBlock;
  for (int64_t i = int64_t{blockIdx.x} * kSelectBlock + threadIdx.x; i < total; i += step) {
    const U key = keys[i], rest = key ^ bucket.value;
    if (bucket.shift >= kBits || (rest >> (bucket.shift % kBits)) == 0) {
      atomicAdd(&shared.histogram[static_cast<unsigned>(key >> shift) & (bins - 1)], 1u);
    }
  }
  __syncthreads();
  unsigned* const histogram = search->histograms[digit];
  for (int i = static_cast<int>(threadIdx.x); i < bins; i += kSelectBlock) {
    if (shared.histogram[i] > 0) atomicAdd(&histogram[i], shared.histogram[i]);
  }
  if (!arrives_last(&search->arrived[digit], last)) return;
  for (int i = static_cast<int>(threadIdx.x); i < kSelectBins; i += kSelectBlock) {
    shared.histogram[i] = histogram[i];
  }
  __syncthreads();
  const Found found = find_bucket(scan_histogram(shared), bucket.needed, shared);
  if (threadIdx.x != 0) return;
  search->bucket = {bucket.value | (static_cast<U>(found.bucket) << shift), shift, found.inside,
                    bucket.needed - found.before};
}

// The index of the needed-th of count numbers that are counted by at(i), needed >= 1; before: those of lower indices.
template <typename At>
__device__ __forceinline__ int64_t find_needed(int64_t count, unsigned needed, unsigned& before,
                                               SearchShared& shared, double* scratch,
                                               const At& at) {
  before = 0;
  for (int64_t first = 0;; first += kSelectBins) {
    unsigned sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < kSelectBins; i += kSelectBlock) {
      const unsigned own = first + i < count ? at(first + i) : 0;
      shared.histogram[kSelectBins - 1 - i] = own;
      sum += own;
    }
    sum = block_reduce(sum, reinterpret_cast<unsigned*>(scratch),
                       [](unsigned x, unsigned y) { return x + y; });
    if (before + sum >= needed || first + kSelectBins >= count) {
      const Found found = find_bucket(scan_histogram(shared), needed - before, shared);
      before += found.before;
      __syncthreads();  // the next search writes what this one read
      return first + kSelectBins - 1 - static_cast<int64_t>(found.bucket);
    }
    before += sum;
  }
}

// The cut, when all digits are known. ties: [grid], one number a block.
template <typename U>
__global__ void __launch_bounds__(kSelectBlock)
    batch_tie_kernel(const U* keys, int64_t total, unsigned* ties, BatchSearch<U>* search) {
  after_previous_kernel();
  __shared__ SearchShared shared;
  __shared__ double scratch[kSelectWarps];
  __shared__ bool last;
  const Bucket<U> bucket = search->bucket;
  if (bucket.needed == 0 || bucket.needed == bucket.inside) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      search->cut = bucket.needed == 0 ? empty_cut<U>() : RowCut<U>{bucket.value, kAnyTie};
    }
    return;
  }
  const int64_t first = int64_t{blockIdx.x} * kTieKeys;
  unsigned own = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kTieKeys; i += kSelectBlock) {
    own += first + i < total && keys[first + i] == bucket.value;
  }
  own = block_reduce(own, reinterpret_cast<unsigned*>(scratch),
                     [](unsigned x, unsigned y) { return x + y; });
  if (threadIdx.x == 0) ties[blockIdx.x] = own;
  if (!arrives_last(&search->arrived[BatchSearch<U>::kDigits], last)) return;
  unsigned before = 0, inside = 0;
  const int64_t block = find_needed(gridDim.x, bucket.needed, before, shared, scratch,
                                    [&](int64_t i) { return ties[i]; });
  const int64_t begin = block * kTieKeys, left = total - begin;
  const int64_t index = find_needed(
      left < kTieKeys ? left : kTieKeys, bucket.needed - before, inside, shared, scratch,
      [&](int64_t i) { return static_cast<unsigned>(keys[begin + i] == bucket.value); });
  if (threadIdx.x == 0) search->cut = {bucket.value, begin + index};
}

// Numbers of unsigned that the search over total keys needs beside itself.
inline int64_t batch_ties(int64_t total) {
  return total > 0 ? ceil_div<int64_t>(total, kTieKeys) : 1;
}

// From search->bucket to search->cut: keys [total], ties [batch_ties(total)].
template <typename U>
inline cudaError_t launch_batch_search(const U* keys, int64_t total, unsigned* ties,
                                       BatchSearch<U>* search, cudaStream_t stream) {
  const int64_t parts = batch_ties(total), most = 2 * multiprocessors();
  const dim3 grid(static_cast<unsigned>(parts < most ? parts : most));
  for (int digit = 0; digit < BatchSearch<U>::kDigits; ++digit) {
    const cudaError_t error = launch(batch_digit_kernel<U>, grid, dim3(kSelectBlock), 0, stream,
                                     keys, total, digit, search);
    if (error != cudaSuccess) return error;
  }
  return launch(batch_tie_kernel<U>, dim3(static_cast<unsigned>(parts)), dim3(kSelectBlock), 0,
                stream, keys, total, ties, search);
}

}  // namespace ssd_cuda
