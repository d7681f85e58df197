// Score order of boxes on the CPU: (score descending, index ascending), NaN first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/math/nms_math.h"

namespace ssd_cuda {
namespace nms {

template <typename Key>
struct Ranked {
  Key key;  // ~ordered_key: ascending
  uint32_t index;
  bool operator<(const Ranked& other) const {
    return key != other.key ? key < other.key : index < other.index;
  }
};

constexpr int kRadixBits = 11, kRadixSize = 1 << kRadixBits;
constexpr int64_t kRadixFrom =
    512;  // below, a comparison sort is faster than clearing the histograms

// Stable least-significant-digit radix sort; the items come in index order, so ties stay in it.
template <typename Key>
inline void radix_sort(std::vector<Ranked<Key>>& items) {
  constexpr int kDigits = (8 * sizeof(Key) + kRadixBits - 1) / kRadixBits;
  const auto digit = [](Key key, int d) {
    return static_cast<uint32_t>(key >> (d * kRadixBits)) & (kRadixSize - 1);
  };
  std::vector<uint32_t> counts(kDigits * kRadixSize, 0);
  for (const auto& item : items) {
    for (int d = 0; d < kDigits; ++d) ++counts[d * kRadixSize + digit(item.key, d)];
  }
  std::vector<Ranked<Key>> other(items.size());
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* count = counts.data() + d * kRadixSize;
    if (count[digit(items[0].key, d)] == items.size()) continue;  // one value: nothing to move
    uint32_t sum = 0;
    for (int v = 0; v < kRadixSize; ++v) sum += std::exchange(count[v], sum);
    for (const auto& item : items) other[count[digit(item.key, d)]++] = item;
    items.swap(other);
  }
}

// order[k] = index of the box that comes k-th. Score: the storage type; Wide: float or double.
template <typename Wide, typename Score>
inline void score_order(const Score* scores, int64_t n, uint32_t* order) {
  using Key = decltype(ordered_key(Wide{}));
  std::vector<Ranked<Key>> items(n);
  for (int64_t i = 0; i < n; ++i) {
    items[i] = {static_cast<Key>(~ordered_key(static_cast<Wide>(scores[i]))),
                static_cast<uint32_t>(i)};
  }
  if (n < kRadixFrom) {
    std::sort(items.begin(), items.end());
  } else {
    radix_sort(items);
  }
  for (int64_t k = 0; k < n; ++k) order[k] = items[k].index;
}

}  // namespace nms
}  // namespace ssd_cuda
