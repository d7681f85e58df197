// soft-NMS of boxes on the CPU: a list a class, classes side by side, their choices in one order.
#pragma once

#include <numeric>

#include "common/cpu/parallel.h"
#include "soft_list.h"

namespace ssd_cuda {

template <typename T>
struct SoftChoice {
  T score;
  uint32_t index;
  bool operator<(const SoftChoice& other) const {
    const auto a = ordered_key(score), b = ordered_key(other.score);
    return a != b ? a > b : index < other.index;
  }
};

// The boxes by class, each class in index order, and where every class begins.
struct ClassRuns {
  std::vector<uint32_t> order;
  std::vector<int64_t> begins;  // and the end of the last

  ClassRuns(const int64_t* idxs, int64_t n) : order(static_cast<std::size_t>(n)), begins{0} {
    std::iota(order.begin(), order.end(), 0u);
    if (idxs != nullptr) {
      std::stable_sort(order.begin(), order.end(),
                       [&](uint32_t a, uint32_t b) { return idxs[a] < idxs[b]; });
      for (int64_t k = 1; k < n; ++k) {
        if (idxs[order[k]] != idxs[order[k - 1]]) begins.push_back(k);
      }
    }
    if (n > 0) begins.push_back(n);
  }
  int64_t count() const { return static_cast<int64_t>(begins.size()) - 1; }
};

// What fn(indices of a class, their number, results) finds in every class, classes side by side: the best `most` of all, by
// (score descending, index ascending), NaN first.
template <typename T, typename Fn>
std::vector<SoftChoice<T>> choices_by_class(const int64_t* idxs, int64_t n, int64_t most,
                                            const Fn& fn) {
  const ClassRuns runs(idxs, n);
  std::vector<std::vector<SoftChoice<T>>> parts(static_cast<std::size_t>(runs.count()));
  parallel_grains(runs.count(), 1, [&](int64_t c, int64_t) {
    fn(runs.order.data() + runs.begins[c], runs.begins[c + 1] - runs.begins[c], parts[c]);
  });
  std::vector<SoftChoice<T>> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  std::sort(all.begin(), all.end());
  if (static_cast<int64_t>(all.size()) > most) all.resize(static_cast<std::size_t>(most));
  return all;
}

// Soft-NMS of every class.
template <typename T>
std::vector<SoftChoice<T>> choices_of(const Vec4<T>* boxes, const T* scores, const int64_t* idxs,
                                      int64_t n, const SoftRule<T>& rule, int64_t most) {
  const auto choose = [&](const uint32_t* order, int64_t size, auto& part) {
    SoftList<T> list(rule.overlap, rule.decay, rule.score_threshold);
    list.reserve(size);
    for (int64_t k = 0; k < size; ++k) list.add(boxes[order[k]], scores[order[k]], order[k]);
    list.choose(most, [&](uint32_t index, T score) { part.push_back({score, index}); });
  };
  return choices_by_class<T>(idxs, n, most, choose);
}

}  // namespace ssd_cuda
