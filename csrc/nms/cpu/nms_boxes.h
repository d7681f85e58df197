// All boxes of a call, in its order.
#pragma once

#include <algorithm>
#include <vector>

#include "nms/nms_grid.h"
#include "nms_kept.h"

namespace ssd_cuda {
namespace nms {

// Classes as lane integers that are equal exactly when idxs are; none: all are of one.
template <typename T>
inline std::vector<LaneInt<T>> lane_classes(const int64_t* idxs, int64_t n) {
  std::vector<LaneInt<T>> classes;
  if (idxs == nullptr || n == 0) return classes;
  classes.resize(n);
  const auto [low, high] = std::minmax_element(idxs, idxs + n);
  const uint64_t first = *low, span = static_cast<uint64_t>(*high) - first;
  if (span <= static_cast<uint64_t>(std::numeric_limits<LaneInt<T>>::max())) {
    for (int64_t i = 0; i < n; ++i) {
      classes[i] = static_cast<LaneInt<T>>(static_cast<uint64_t>(idxs[i]) - first);
    }
    return classes;
  }
  std::vector<int64_t> values(idxs, idxs + n);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  for (int64_t i = 0; i < n; ++i) {
    const auto at = std::lower_bound(values.begin(), values.end(), idxs[i]);
    classes[i] = static_cast<LaneInt<T>>(at - values.begin());
  }
  return classes;
}

// Nothing is copied of float and double: most calls look at each box once.
template <typename T>
struct Boxes {
  SuppressRule<T> rule;
  int64_t count;

  template <typename Storage>
  Boxes(const Storage* sides, const int64_t* idxs, int64_t n, const SuppressRule<T>& with)
      : rule(with), count(n), classes_(lane_classes<T>(idxs, n)) {
    if constexpr (std::is_same_v<Storage, T>) {
      sides_ = sides;
    } else {
      wide_.resize(4 * n);
      for (int64_t i = 0; i < 4 * n; ++i) wide_[i] = static_cast<T>(sides[i]);
      sides_ = wide_.data();
    }
  }

  Candidate<T> candidate(int64_t i) const {
    const T* b = sides_ + 4 * i;
    const Vec4<T> box{b[0], b[1], b[2], b[3]};
    return {box, rule.area(box), classes_.empty() ? 0 : classes_[i]};
  }
  Kind kind(const Candidate<T>& c) const { return kind_of(c.box, c.area, rule); }

 private:
  const T* sides_;
  std::vector<T> wide_;
  std::vector<LaneInt<T>> classes_;
};

}  // namespace nms
}  // namespace ssd_cuda
