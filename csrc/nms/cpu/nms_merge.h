// One list from several that are in score order, by several threads.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "common/cpu/parallel.h"
#include "nms_sort.h"

namespace ssd_cuda {
namespace nms {

template <typename Key>
using Run = std::span<const Ranked<Key>>;

// put(i, item) for the first `count` items of both, in order. Without a branch on whose item is first: nothing foretells it.
template <typename Key, typename Put>
inline void merge_two(Run<Key> a, Run<Key> b, int64_t count, const Put& put) {
  std::size_t next_a = 0, next_b = 0;
  int64_t i = 0;
  for (; i < count && next_a < a.size() && next_b < b.size(); ++i) {
    const bool second = b[next_b] < a[next_a];
    put(i, second ? b[next_b] : a[next_a]);
    next_b += second;
    next_a += !second;
  }
  const Run<Key> rest = next_a < a.size() ? a.subspan(next_a) : b.subspan(next_b);
  for (std::size_t k = 0; i < count; ++i, ++k) put(i, rest[k]);
}

// The indices of the first `room` of all items, to make(how many). Cut into parts at items of the longest list, each merged
// on its own.
template <typename Key, typename Make>
inline void merge_indices(const std::vector<std::vector<Ranked<Key>>>& lists, int64_t room,
                          int64_t parts, const Make& make) {
  using Items = std::vector<Ranked<Key>>;
  const Items& longest =
      *std::max_element(lists.begin(), lists.end(),
                        [](const Items& a, const Items& b) { return a.size() < b.size(); });
  // Part p is items [cuts[p], cuts[p + 1]) of every list, and begins at place[p] of the result.
  std::vector<std::vector<typename Items::const_iterator>> cuts(parts + 1);
  std::vector<int64_t> place(parts + 1, 0);
  for (int64_t p = 0; p <= parts; ++p) {
    const auto at = static_cast<int64_t>(longest.size()) * p / parts;
    for (const Items& list : lists) {
      cuts[p].push_back(p == 0       ? list.begin()
                        : p == parts ? list.end()
                                     : std::lower_bound(list.begin(), list.end(), longest[at]));
      place[p] += cuts[p].back() - list.begin();
    }
  }
  const int64_t total = std::min(room, place[parts]);
  int64_t* const result = make(total);
  parallel_grains(parts, 1, [&](int64_t p, int64_t) {
    std::vector<Run<Key>> runs;
    for (std::size_t i = 0; i < lists.size(); ++i) runs.emplace_back(cuts[p][i], cuts[p + 1][i]);
    std::vector<Items> merged(runs.size());  // at the places of runs, which point into them
    while (runs.size() > 2) {
      const auto size = static_cast<int64_t>(runs[0].size() + runs[1].size());
      Items& both = merged[runs.size() - 3];
      both.resize(size);
      merge_two(runs[0], runs[1], size, [&](int64_t i, const auto& item) { both[i] = item; });
      runs.erase(runs.begin(), runs.begin() + 2);
      runs.push_back(both);
    }
    runs.resize(2);
    int64_t* const to = result + std::min(place[p], total);
    const int64_t count = std::min(place[p + 1], total) - std::min(place[p], total);
    merge_two(runs[0], runs[1], count, [&](int64_t i, const auto& item) { to[i] = item.index; });
  });
}

}  // namespace nms
}  // namespace ssd_cuda
