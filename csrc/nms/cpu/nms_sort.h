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
  bool operator<(const Ranked& other) const { return place() < other.place(); }

 private:
  auto place() const {
    if constexpr (sizeof(Key) == 4) {
      return uint64_t{key} << 32 | index;
    } else {
      return std::pair(key, index);
    }
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

// Sorts items that come in the order of their indices.
template <typename Key>
inline void sort_ranked(std::vector<Ranked<Key>>& items) {
  if (static_cast<int64_t>(items.size()) < kRadixFrom) {
    std::sort(items.begin(), items.end());
  } else {
    radix_sort(items);
  }
}

// The key of a score of a storage type, by which boxes come in ascending order.
template <typename Score>
inline auto rank_key(Score score) {
  const auto key = ordered_key(static_cast<acc_t<Score>>(score));
  return static_cast<decltype(key)>(~key);
}

}  // namespace nms
}  // namespace ssd_cuda
