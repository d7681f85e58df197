// Greedy suppression on the CPU. Boxes come in score order; each is tested against the kept boxes that could
// remove it. Up to kGridFrom kept boxes these are all of them, a vector of boxes at a time; from then on those
// that a hashed grid finds (nms_grid.h says why these suffice), on several threads by panels (nms_panels.h). Memory: O(N).
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "nms_panels.h"

namespace ssd_cuda {
namespace nms {

constexpr int64_t kGridFrom = 256;
// Boxes that are worth several threads: on two of them 20,000 and 100,000 take as long as on one, 400,000 of a sparse scene .8 of it.
constexpr int64_t kPanelsFrom = 1 << 18;

// Classes as lane integers that are equal exactly when idxs are.
template <typename T>
inline std::vector<LaneInt<T>> lane_classes(const int64_t* idxs, int64_t n) {
  std::vector<LaneInt<T>> classes(n, 0);
  if (idxs == nullptr || n == 0) return classes;
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

// The boxes in score order and what has been kept of them.
template <typename T>
class Sweep {
 public:
  template <typename Storage>
  Sweep(const Storage* boxes, const int64_t* idxs, int64_t n, const uint32_t* order,
        const SuppressRule<T>& rule, int64_t panels_from = kPanelsFrom)
      : rule_(rule),
        n_(n),
        order_(order),
        candidates_(new Candidate<T>[n]),
        kinds_(n),
        grid_(rule) {
    const std::vector<LaneInt<T>> classes = lane_classes<T>(idxs, n);
    parallel_grains(n, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const Storage* b = boxes + 4 * static_cast<int64_t>(order[k]);
        const Vec4<T> box{static_cast<T>(b[0]), static_cast<T>(b[1]), static_cast<T>(b[2]),
                          static_cast<T>(b[3])};
        candidates_[k] = {box, rule.area(box), classes[order[k]]};
        kinds_[k] = kind_of(box, candidates_[k].area, rule);
      }
    });
    // Odd boxes are tested against all: one by one.
    panels_ = n >= panels_from && task_threads() > 1 &&
              std::find(kinds_.begin(), kinds_.end(), Kind::kOdd) == kinds_.end();
  }

  // Appends the kept indices to keep, at most max_output of them.
  void run(int64_t max_output, std::vector<int64_t>& keep) {
    if (rule_.any_pair()) return run_any_iou(max_output, keep);
    all_.reserve(n_);
    int64_t k = 0;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      for (; k < n_ && static_cast<int64_t>(keep.size()) < max_output; ++k) {
        if (panels_ && grid_.built()) break;
        if (kinds_[k] != Kind::kInert) {
          if (removed<V>(k)) continue;
          add(k);
        }
        keep.push_back(order_[k]);
      }
    });
    const int64_t room = max_output - static_cast<int64_t>(keep.size());
    if (k == n_ || room <= 0) return;
    std::vector<uint32_t> places;
    Panels<T>(candidates_.get(), kinds_.data(), n_, grid_, all_).run(k, room, places);
    const int64_t count = std::min(room, static_cast<int64_t>(places.size()));
    for (int64_t i = 0; i < count; ++i) keep.push_back(order_[places[i]]);
  }

 private:
  template <typename V>
  SSD_SIMD_BODY bool removed(int64_t k) const {
    const Candidate<T>& q = candidates_[k];
    AnyRemover found;
    if (!grid_.built() || kinds_[k] == Kind::kOdd) {
      look_through<V>(all_, q, rule_, found);
      return found.done();
    }
    if (odd_.size > 0) look_through<V>(odd_, q, rule_, found);
    if (!found.done()) grid_.template search<V>(q, all_, found);
    return found.done();
  }

  __attribute__((noinline)) void add(int64_t k) {
    const Candidate<T>& c = candidates_[k];
    all_.push(c, k);
    if (kinds_[k] == Kind::kOdd) {
      if (odd_.size == 0) odd_.reserve(n_);
      odd_.push(c, k);
    } else if (grid_.built()) {
      grid_.insert(k, c);
    } else {
      early_.push_back(k);
    }
    if (!grid_.built() && all_.size == kGridFrom && n_ - k > kGridFrom) {
      grid_.build(candidates_.get(), kinds_.data(), n_);
      for (int64_t kept : early_) grid_.insert(kept, candidates_[kept]);
    }
  }

  // IoU >= 0: disjoint and empty boxes count too, so nearly everything goes after the first box.
  void run_any_iou(int64_t max_output, std::vector<int64_t>& keep) {
    std::vector<const Candidate<T>*> kept;
    for (int64_t k = 0; k < n_ && static_cast<int64_t>(keep.size()) < max_output; ++k) {
      const Candidate<T>& q = candidates_[k];
      const bool removed = std::any_of(kept.begin(), kept.end(), [&](const Candidate<T>* c) {
        return c->cls == q.cls && rule_(c->box, c->area, q.box, q.area);
      });
      if (removed) continue;
      kept.push_back(&q);
      keep.push_back(order_[k]);
    }
  }

  SuppressRule<T> rule_;
  int64_t n_;
  const uint32_t* order_;
  std::unique_ptr<Candidate<T>[]> candidates_;
  std::vector<Kind> kinds_;
  KeptList<T> all_, odd_;
  std::vector<int64_t> early_;  // kept before there was a grid
  Grid<T> grid_;
  bool panels_;
};

}  // namespace nms
}  // namespace ssd_cuda
