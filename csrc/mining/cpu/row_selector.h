// The k largest of one row on the CPU, ties to the lowest index.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/cpu/half_simd.h"
#include "common/cpu/lanes.h"
#include "mining/mining_rule.h"

namespace ssd_cuda {

// ordered_key of a Pack of floats.
template <typename V>
SSD_SIMD_BODY inline auto ordered_key_pack(V key) {
  using U = Pack<uint32_t, sizeof(V) / sizeof(float)>;
  using I = Pack<int32_t, sizeof(V) / sizeof(float)>;
  const V plain = key + 0.0f;
  I bits;
  std::memcpy(&bits, &plain, sizeof bits);
  const U flipped = U(bits ^ ((bits >> 31) | INT32_MIN));
  return flipped | U(key != key);
}

// Keys of storage type S in the arithmetic type, as ordered integers.
template <typename S, typename U>
void order_keys(const S* keys, int64_t count, U* ordered) {
  int64_t i = 0;
  if constexpr (sizeof(U) == 4) {
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      constexpr int kLanes = decltype(bytes)::value / sizeof(float);
      for (; i + kLanes <= count; i += kLanes) {
        store_pack(ordered + i, ordered_key_pack(load_floats<Pack<float, kLanes>>(keys + i)));
      }
    });
  }
  using T = std::conditional_t<sizeof(U) == 4, float, double>;
  for (; i < count; ++i) ordered[i] = ordered_key(static_cast<T>(keys[i]));
}

// mask[i] = whether key i of a row is selected; excluded rows never are.
template <typename U>
void mark_selected(const U* keys, int64_t width, RowCut<U> cut, bool* mask) {
  const int64_t through =
      std::clamp<int64_t>(cut.tie + 1, 0, width);  // equal keys count up to here
  const U low = least_selected(cut);
  for (int64_t i = 0; i < through; ++i) mask[i] = keys[i] >= low;
  for (int64_t i = through; i < width; ++i) mask[i] = keys[i] > cut.threshold;
}

// Radix selection, of the upper part of the row where k is small: a histogram over the digit that starts at the
// highest bit in which the keys differ names the bucket of the k-th key; only that bucket goes on to the next digit.
// Trained rows share their top bits, untrained rows all of them: starting at the highest differing bit keeps both at
// one or two passes. One object serves one thread; it only holds scratch memory.
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
    if (width >= kSampledWidth && k <= width / 8) {
      const int64_t kept = keep_upper_part(keys, width, k);
      if (kept >= k) current = keys_.data(), indices = indices_.data(), count = kept;
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
  static constexpr int kBits = 8 * sizeof(U);

  static int64_t last_of(const U* keys, const int64_t* indices, int64_t count, U value) {
    int64_t i = count - 1;
    while (keys[i] != value) --i;
    return indices ? indices[i] : i;
  }

  static int highest_bit(U value) {  // value > 0
    return 63 - __builtin_clzll(static_cast<unsigned long long>(value));
  }

  // Few of many: an evenly spaced sample gives a bound that about 2 k keys reach, and only those are kept. Returns how
  // many; fewer than k where the sample misled.
  int64_t keep_upper_part(const U* keys, int64_t width, int64_t k) {
    U sample[kSamples];
    for (int64_t i = 0; i < kSamples; ++i) sample[i] = keys[i * width / kSamples];
    const int64_t rank = std::min<int64_t>(2 * k * kSamples / width + 8, kSamples - 1);
    std::nth_element(sample, sample + rank, sample + kSamples, std::greater<U>());
    return keep_range(keys, nullptr, width, sample[rank], ~U(0));
  }

  // Copies the keys in [low, high] and their indices to the scratch memory, in order; returns how many.
  int64_t keep_range(const U* keys, const int64_t* indices, int64_t count, U low, U high) {
    next_indices_.resize(count);
    const int64_t n = list_in_range(keys, count, low, high, next_indices_.data());
    next_keys_.resize(n);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t i = next_indices_[j];
      next_keys_[j] = keys[i];
      if (indices != nullptr) next_indices_[j] = indices[i];
    }
    std::swap(keys_, next_keys_);
    std::swap(indices_, next_indices_);
    return n;
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
    const U mask = top + 1 < kBits ? (U(1) << (top + 1)) - 1 : ~U(0);
    const U first = (low & ~mask) | (static_cast<U>(bucket) << shift);
    *count = keep_range(*keys, *indices, *count, first, first | ((U(1) << shift) - 1));
    *keys = keys_.data();
    *indices = indices_.data();
  }

  std::vector<int64_t> histogram_;
  std::vector<U> keys_, next_keys_;
  std::vector<int64_t> indices_, next_indices_;
};

}  // namespace ssd_cuda
