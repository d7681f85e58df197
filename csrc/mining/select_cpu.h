// The k largest of one row on the CPU, ties to the lowest index.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "mining_rule.h"

namespace ssd_cuda {

// Radix selection, of the upper part of the row where k is small: a histogram over the digit that starts at the highest bit in which the keys differ names
// the bucket of the k-th key; only that bucket goes on to the next digit. Trained rows share their top
// bits, untrained rows all of them: starting at the highest differing bit keeps both at one or two passes.
// One object serves one thread; it only holds scratch memory.
template <typename U>
class RowSelector {
 public:
  // keys: [width], k: any number. The result selects min(max(k, 0), width) rows.
  RowCut<U> select(const U* keys, int64_t width, int64_t k) {
    if (k > width) k = width;
    if (k <= 0) return empty_cut<U>();
    const U* current = keys;
    const int64_t* indices = nullptr;  // null: position i is index i
    int64_t count = width;
    if (width >= kSampledWidth && k <= width / 8 && keep_upper_part(keys, width, k)) {
      current = keys_.data();
      indices = indices_.data();
      count = static_cast<int64_t>(keys_.size()) - 1;
    }
    for (;;) {
      U low = current[0], high = current[0];
      for (int64_t i = 1; i < count; ++i) {
        low = current[i] < low ? current[i] : low;
        high = current[i] > high ? current[i] : high;
      }
      if (low == high) return {low, indices ? indices[k - 1] : k - 1};
      if (k == count) return {low, last_of(current, indices, count, low)};
      narrow(&current, &indices, &count, &k, low, high);
    }
  }

 private:
  static constexpr int64_t kSampledWidth = 1024;
  static constexpr int64_t kSamples = 256;
  static constexpr int kDigitBits = 11;
  static constexpr int kBuckets = 1 << kDigitBits;

  static int64_t last_of(const U* keys, const int64_t* indices, int64_t count, U value) {
    int64_t i = count - 1;
    while (keys[i] != value) --i;
    return indices ? indices[i] : i;
  }

  static int highest_bit(U value) {  // value > 0
    return 63 - __builtin_clzll(static_cast<unsigned long long>(value));
  }

  // Few of many: an evenly spaced sample gives a bound that about 2 k keys reach, and only those go on, in
  // index order. False where the sample misled and fewer than k reach it.
  bool keep_upper_part(const U* keys, int64_t width, int64_t k) {
    U sample[kSamples];
    for (int64_t i = 0; i < kSamples; ++i) sample[i] = keys[i * width / kSamples];
    const int64_t rank = std::min<int64_t>(2 * k * kSamples / width + 8, kSamples - 1);
    std::nth_element(sample, sample + rank, sample + kSamples, std::greater<U>());
    const U bound = sample[rank];
    keys_.resize(width + 1);  // + 1: the branchless store below writes one place past the last hit
    indices_.resize(width + 1);
    int64_t n = 0;
    for (int64_t i = 0; i < width; ++i) {
      keys_[n] = keys[i];
      indices_[n] = i;
      n += keys[i] >= bound;
    }
    keys_.resize(n + 1);
    return n >= k;
  }

  // Leaves the keys of the bucket in which the k-th largest lies, in index order, and its k in the bucket.
  void narrow(const U** keys, const int64_t** indices, int64_t* count, int64_t* k, U low, U high) {
    const int top = highest_bit(low ^ high);
    const int shift = top + 1 > kDigitBits ? top + 1 - kDigitBits : 0;
    const auto digit = [shift](U key) { return (key >> shift) & U(kBuckets - 1); };
    histogram_.assign(kBuckets, 0);
    for (int64_t i = 0; i < *count; ++i) ++histogram_[digit((*keys)[i])];
    int64_t bucket = kBuckets - 1;
    for (; histogram_[bucket] < *k; --bucket) *k -= histogram_[bucket];
    const int64_t size = histogram_[bucket];
    next_keys_.resize(size + 1);  // + 1 as above
    next_indices_.resize(size + 1);
    int64_t n = 0;
    for (int64_t i = 0; i < *count; ++i) {
      const U key = (*keys)[i];
      next_keys_[n] = key;
      next_indices_[n] = *indices ? (*indices)[i] : i;
      n += static_cast<U>(bucket) == digit(key);
    }
    std::swap(keys_, next_keys_);
    std::swap(indices_, next_indices_);
    *keys = keys_.data();
    *indices = indices_.data();
    *count = size;
  }

  std::vector<int64_t> histogram_;
  std::vector<U> keys_, next_keys_;
  std::vector<int64_t> indices_, next_indices_;
};

}  // namespace ssd_cuda
