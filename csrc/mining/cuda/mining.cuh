// Per-row selection with a different k in every row, k on the device.
//
//   top_k             threshold, tie index, count and sum of the k largest keys, and their mask
//   hard_negatives    the mask of the k hardest rows, k from the number of positives; of a whole batch by several blocks
//
// One block of 1024 threads a row. Bytes: keys are read once (rows beyond shared memory again in each pass), with
// positives and candidates 1 B a row each; the mask writes 1 B a row. 32 rows of 8732 float keys: 1.1 MB read,
// 0.3 MB written; bound by what follows one after the other (one round of loads, a count, a list, the mask), not by memory.
#pragma once

#include "batch_select.cuh"
#include "stored_keys.cuh"

namespace ssd_cuda {

struct TopKArgs {
  const void* keys;  // [B, P]
  KeyType type;
  const int64_t* k;  // [B]
  int64_t batch, width;
  void* threshold;     // [B], type of the keys
  int64_t* tie_index;  // [B]
  int64_t* count;      // [B]
  void* sum;           // [B], float or double
  bool* mask;          // [B, P]
};

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, kPerThread == kInShared ? 2 : 1)
    top_k_kernel(TopKArgs args) {
  using U = Ordered<T>;
  __shared__ SelectShared<U> shared;
  __shared__ double partial[kSelectWarps];
  begin_selection(shared);
  after_previous_kernel();
  const int64_t row = blockIdx.x, first = row * args.width;
  const StoredKeys<T> load{args.keys, args.type, first};
  const RowKeys<kPerThread, StoredKeys<T>, U> keys(load, args.width);
  count_first_digit<U>(keys, shared);
  __syncthreads();
  const RowCut<U> cut = select_row<true, U>(keys, args.k[row], scan_histogram(shared), shared);
  double sum = 0;
  keys.each([&](U key, auto i) {
    const bool take = is_selected(key, i, cut);
    args.mask[first + i] = take;
    if (take) sum += static_cast<double>(key_value<T>(key));
  });
  sum = block_reduce(sum, partial, [](double a, double b) { return a + b; });
  if (threadIdx.x != 0) return;
  const int64_t k = args.k[row];
  args.count[row] = k < 0 ? 0 : k > args.width ? args.width : k;
  args.tie_index[row] = cut.tie;
  static_cast<T*>(args.sum)[row] = static_cast<T>(sum);
  store_key<T>(args.threshold, args.type, row,
               cut.tie < 0 ? T(INFINITY) : key_value<T>(cut.threshold));
}

struct HardNegativeArgs {
  const void* keys;  // [B, P]
  KeyType type;
  const bool* positive;   // [B, P]
  const bool* candidate;  // [B, P] or null: all that are not positive
  MiningRule rule;
  int64_t batch, width;
  bool* mask;  // [B, P]
};

// The keys of args from `first` on; counts: of what they are made of.
template <typename T>
__device__ __forceinline__ MinedKeys<T> mined_keys(const HardNegativeArgs& args, int64_t first,
                                                   MinedCounts& counts) {
  return {args.keys, args.type, first, args.positive, args.candidate, positive_key<T>(args.rule),
          counts};
}

// The mask of the k hardest rows, k <= keys.width. Where keys in registers have listed the bucket of the k-th no cut is made:
// the other keys are decided by the bucket, and whoever ranks a listed one writes what becomes of it.
template <typename U, typename Keys>
__device__ __forceinline__ void write_mask(const Keys& keys, int k, const Scan& scan, bool* mask,
                                           SelectShared<U>& shared) {
  const auto write = [&](RowCut<U> found) {
    const auto cut = selectable_cut(found, keys.width);
    keys.each([&](U key, auto i) { mask[i] = is_selected(key, i, cut); });
  };
  if constexpr (!Keys::kInRegisters) {
    write(select_row<false, U>(keys, k, scan, shared));
  } else {
    if (k <= 0) return write(empty_cut<U>());
    const Bucket<U> bucket = search_bucket<false>(keys, static_cast<unsigned>(k), scan, shared);
    if (!bucket.template listed<false>()) return write(cut_unlisted<false>(keys, bucket, shared));
    each_listed(keys, bucket, shared, [&](const Listed<U>& own, unsigned better) {
      mask[own.index] = better < bucket.needed && own.key != kExcluded<U>;
    });
    const U size = U{1} << bucket.shift;  // of the bucket, in keys there may be
    keys.each([&](U key, auto i) {
      if (key - bucket.value >= size) mask[i] = key > bucket.value;
    });
  }
}

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, 1) hard_negatives_kernel(HardNegativeArgs args) {
  using U = Ordered<T>;
  __shared__ SelectShared<U> shared;
  __shared__ SumScratch scratch;
  begin_selection(shared);
  after_previous_kernel();
  MinedCounts counts;
  const auto load = mined_keys<T>(args, int64_t{blockIdx.x} * args.width, counts);
  const RowKeys<kPerThread, decltype(load), U> keys(load, args.width);
  count_first_digit<U>(keys, shared);
  unsigned positives = counts.positives, excluded = counts.excluded;
  block_sums(positives, excluded, scratch);  // its barrier is that of the first digits too
  const auto scan = scan_histogram(shared);
  const int width = static_cast<int>(args.width);  // fewer than 2^31, as the op demands
  const int k = num_hard_negatives(args.rule, static_cast<int>(positives),
                                   width - static_cast<int>(positives + excluded), width);
  // Where the row begins once more: kept until here it would take two registers that the keys need.
  bool* const mask = args.mask + uint64_t{blockIdx.x} * static_cast<unsigned>(args.width);
  write_mask(keys, k, scan, mask, shared);
}

// keys: [B, P], ks: [B]
template <typename S>
inline cudaError_t launch_top_k(const S* keys, const int64_t* ks, int64_t batch, int64_t width,
                                const SelectedRows<S>& to, cudaStream_t stream) {
  using T = acc_t<S>;
  const TopKArgs args{.keys = keys,
                      .type = key_type<S>(),
                      .k = ks,
                      .batch = batch,
                      .width = width,
                      .threshold = to.threshold,
                      .tie_index = to.tie,
                      .count = to.count,
                      .sum = to.sum,
                      .mask = to.mask};
  return launch_rows<T>(args.width, args.batch, args, stream,
                        [](auto held) { return top_k_kernel<T, decltype(held)::value>; });
}

// The keys of a batch that is ranked as a whole, its positives and excluded rows counted: k, and where the search starts.
template <typename T>
__global__ void __launch_bounds__(kSelectBlock)
    batch_keys_kernel(HardNegativeArgs args, Ordered<T>* ordered, BatchSearch<Ordered<T>>* search) {
  after_previous_kernel();
  using U = Ordered<T>;
  using Search = BatchSearch<U>;
  __shared__ SumScratch scratch;
  __shared__ bool last;
  const int64_t step = int64_t{gridDim.x} * kSelectBlock;
  MinedCounts counts;
  mined_keys<T>(args, 0, counts).with([&](const auto& source) {
    for (int64_t i = int64_t{blockIdx.x} * kSelectBlock + threadIdx.x; i < args.width; i += step) {
      ordered[i] = key_at(source, i);
    }
  });
  unsigned positives = counts.positives, excluded = counts.excluded;
  block_sums(positives, excluded, scratch);
  if (threadIdx.x == 0) {
    atomicAdd(&search->positives, positives);
    atomicAdd(&search->excluded, excluded);
  }
  if (!arrives_last(&search->arrived[Search::kDigits + 1], last) || threadIdx.x != 0) return;
  const int64_t found = search->positives;
  search->start(
      num_hard_negatives(args.rule, found, args.width - found - search->excluded, args.width),
      args.width);
}

template <typename U>
__global__ void __launch_bounds__(kSelectBlock)
    batch_mask_kernel(const U* ordered, int64_t total, const BatchSearch<U>* search, bool* mask) {
  after_previous_kernel();
  const RowCut<U> cut = search->cut;
  const int64_t i = int64_t{blockIdx.x} * kSelectBlock + threadIdx.x;
  if (i < total) mask[i] = ordered[i] != kExcluded<U> && is_selected(ordered[i], i, cut);
}

// keys, positives, mask: [B, P], in one row of all where the batch is ranked as a whole; candidates: [B, P] or null.
template <typename S>
struct HardNegativePlan : HardNegativeArgs {
  using U = Ordered<acc_t<S>>;
  U* ordered = nullptr;  // [P], of a whole batch
  unsigned* ties = nullptr;
  BatchSearch<U>* search = nullptr;

  // take: see common/cuda/workspace.h
  template <typename Take>
  HardNegativePlan(const MiningRule& rule, const S* keys, const bool* positives,
                   const bool* candidates, int64_t batch, int64_t width, bool* mask,
                   const Take& take)
      : HardNegativeArgs{.keys = keys,
                         .type = key_type<S>(),
                         .positive = positives,
                         .candidate = candidates,
                         .rule = rule,
                         .batch = batch,
                         .width = width,
                         .mask = mask} {
    if (rule.scope != MiningScope::kBatch) return;
    ordered = take(width, U{});
    ties = take(batch_ties(width), unsigned{});
    search = take(1, BatchSearch<U>{});
  }
};

template <typename S>
inline cudaError_t launch_batch_negatives(const HardNegativePlan<S>& plan, cudaStream_t stream) {
  using T = acc_t<S>;
  using U = Ordered<T>;
  const int64_t parts = ceil_div<int64_t>(plan.width, kSelectBlock), most = 2 * multiprocessors();
  const dim3 block(kSelectBlock);
  cudaError_t error = launch(batch_clear_kernel<U>, dim3(1), block, 0, stream, plan.search);
  if (error == cudaSuccess) {
    error = launch(batch_keys_kernel<T>, dim3(static_cast<unsigned>(parts < most ? parts : most)),
                   block, 0, stream, plan, plan.ordered, plan.search);
  }
  if (error == cudaSuccess) {
    error = launch_batch_search<U>(plan.ordered, plan.width, plan.ties, plan.search, stream);
  }
  if (error != cudaSuccess) return error;
  return launch(batch_mask_kernel<U>, dim3(static_cast<unsigned>(parts)), block, 0, stream,
                plan.ordered, plan.width, plan.search, plan.mask);
}

template <typename S>
inline cudaError_t launch_hard_negatives(const HardNegativePlan<S>& args, cudaStream_t stream) {
  using T = acc_t<S>;
  if (args.rule.scope == MiningScope::kBatch) {
    return args.width > 0 ? launch_batch_negatives(args, stream) : cudaSuccess;
  }
  return launch_rows<T>(args.width, args.batch, args, stream,
                        [](auto held) { return hard_negatives_kernel<T, decltype(held)::value>; });
}

}  // namespace ssd_cuda
