// Per-row selection with a different k in every row, k on the device.
//
//   top_k             threshold, tie index, count and sum of the k largest keys, and their mask
//   hard_negatives    the mask of the k hardest rows, k from the number of positives
//
// One block of 1024 threads a row. Bytes: keys are read once (rows beyond shared memory again in each pass), with
// positives and candidates 1 B a row each; the mask writes 1 B a row. 32 rows of 8732 float keys: 1.1 MB read,
// 0.3 MB written; bound by the latency of 2 or 3 passes, not by memory.
#pragma once

#include "select.cuh"

namespace ssd_cuda {

// How keys are stored; computed as T = float, or double for kDouble.
enum class KeyType : int { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat16 = 3 };

template <typename S>
constexpr KeyType key_type() {
  return std::is_same_v<S, double>          ? KeyType::kDouble
         : std::is_same_v<S, __half>        ? KeyType::kHalf
         : std::is_same_v<S, __nv_bfloat16> ? KeyType::kBFloat16
                                            : KeyType::kFloat;
}

// A row of stored keys as a loader of RowKeys: what finish(key, i) makes of them.
template <typename T, typename Finish>
struct StoredKeys {
  const void* keys;
  KeyType type;
  int64_t first;  // of the row
  Finish finish;

  template <typename Fn>
  __device__ __forceinline__ void with(const Fn& fn) const {
    if constexpr (sizeof(T) == 8) {
      as<double>(fn);
    } else if (type == KeyType::kHalf) {
      as<__half>(fn);
    } else if (type == KeyType::kBFloat16) {
      as<__nv_bfloat16>(fn);
    } else {
      as<float>(fn);
    }
  }

 private:
  template <typename S, typename Fn>
  __device__ __forceinline__ void as(const Fn& fn) const {
    const S* row = static_cast<const S*>(keys) + first;
    fn([&](int64_t i) { return finish(static_cast<T>(row[i]), i); });
  }
};
template <typename T, typename Finish>
__device__ __forceinline__ StoredKeys<T, Finish> stored_keys(const void* keys, KeyType type,
                                                             int64_t first, const Finish& finish) {
  return {keys, type, first, finish};
}

template <typename T>
__device__ __forceinline__ void store_key(void* keys, KeyType type, int64_t i, T value) {
  if constexpr (sizeof(T) == 8) {
    static_cast<double*>(keys)[i] = value;
  } else {
    if (type == KeyType::kHalf) {
      static_cast<__half*>(keys)[i] = __half(value);
    } else if (type == KeyType::kBFloat16) {
      static_cast<__nv_bfloat16*>(keys)[i] = __nv_bfloat16(value);
    } else {
      static_cast<float*>(keys)[i] = value;
    }
  }
}

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
__global__ void __launch_bounds__(kSelectBlock, 1) top_k_kernel(TopKArgs args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ SelectShared shared;
  __shared__ double partial[kSelectWarps];
  const int64_t row = blockIdx.x, first = row * args.width;
  const auto load =
      stored_keys<T>(args.keys, args.type, first, [](T key, int64_t) { return ordered_key(key); });
  const RowKeys<kPerThread, decltype(load), U> keys(load, args.width);
  const RowCut<U> cut = select_row<true, U>(keys, args.k[row], shared);
  double sum = 0;
  keys.each([&](U key, int64_t i) {
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

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, 1) hard_negatives_kernel(HardNegativeArgs args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ SelectShared shared;
  __shared__ SumScratch scratch;
  const int64_t row = blockIdx.x, first = row * args.width;
  const bool* candidate = args.candidate != nullptr ? args.candidate + first : nullptr;
  const auto load = stored_keys<T>(args.keys, args.type, first, [&](T key, int64_t i) -> U {
    const U own = candidate == nullptr || candidate[i] ? ordered_key(key) : kExcluded<U>;
    return args.positive[first + i] ? positive_key<T>(args.rule) : own;
  });
  const RowKeys<kPerThread, decltype(load), U> keys(load, args.width);
  unsigned positives = 0, excluded = 0;
  keys.each([&](U key, int64_t i) {
    positives += args.positive[first + i];
    excluded += key == kExcluded<U>;
  });
  block_sums(positives, excluded, scratch);
  const int64_t k =
      num_hard_negatives(args.rule, positives, args.width - positives - excluded, args.width);
  const RowCut<U> cut = select_row<false, U>(keys, k, shared);
  // `first` once more: kept until here it would take two registers that the keys need (indices are 32 bits wide).
  const uint64_t begin = uint64_t{blockIdx.x} * static_cast<unsigned>(args.width);
  keys.each([&](U key, int64_t i) {
    args.mask[begin + i] = key != kExcluded<U> && is_selected(key, i, cut);
  });
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

// keys, positives, mask: [B, P]; candidates: [B, P] or null.
template <typename S>
inline cudaError_t launch_hard_negatives(const MiningRule& rule, const S* keys,
                                         const bool* positives, const bool* candidates,
                                         int64_t batch, int64_t width, bool* mask,
                                         cudaStream_t stream) {
  using T = acc_t<S>;
  const HardNegativeArgs args{.keys = keys,
                              .type = key_type<S>(),
                              .positive = positives,
                              .candidate = candidates,
                              .rule = rule,
                              .batch = batch,
                              .width = width,
                              .mask = mask};
  return launch_rows<T>(args.width, args.batch, args, stream,
                        [](auto held) { return hard_negatives_kernel<T, decltype(held)::value>; });
}

}  // namespace ssd_cuda
