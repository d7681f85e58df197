// Greedy suppression on the CPU. Boxes come in score order; each is tested against the boxes before it that are kept or may
// be. Up to kGridFrom of these it looks at all of them, a vector of boxes at a time; from then on at those that a hashed
// grid finds (nms_grid.h says why these suffice). Where most boxes go, all threads look ahead for those that what is kept so
// far removes, and one thread decides of the others. Memory: O(N).
#pragma once

#include <vector>

#include "common/cpu/parallel.h"
#include "kept_grid.h"
#include "nms_boxes.h"

namespace ssd_cuda {
namespace nms {

constexpr int64_t kGridFrom = 256;
constexpr int64_t kAheadFrom = 1024;  // boxes that are looked at before the first look ahead

// What is known of a box when it and all before it were looked at.
enum class Fate { kKept, kRemoved, kOpen };

// Some of the boxes of a call.
template <typename T>
class Sweep {
 public:
  // order[0, n): what .index says is the box that comes k-th.
  template <typename Item>
  Sweep(const Boxes<T>& boxes, const Item* order, int64_t n)
      : rule_(boxes.rule), n_(n), candidates_(new Candidate<T>[n]), kinds_(n), grid_(boxes.rule) {
    for (int64_t k = 0; k < n; ++k) {
      candidates_[k] = boxes.candidate(order[k].index);
      kinds_[k] = boxes.kind(candidates_[k]);
    }
  }

  // tell(k) for each place in the order whose box is kept, at most `room` of them.
  template <typename Tell>
  void run(int64_t room, const Tell& tell) {
    if (rule_.any_pair()) return run_any_iou(room, tell);
    ahead_ = n_ > 2 * kAheadFrom && task_threads() > 1;
    const auto look = [] { return AnyRemover{}; };
    visit(room, look, [&](int64_t k, Fate fate) {
      if (fate == Fate::kKept) tell(k);
      return fate;
    });
  }

  // Where others have a say: tell(k, fate) for each place, until `room` boxes are kept. waits(k): whether another decides of
  // box k if none before it surely removes it. Open is also what may be removed by such a box, and so on.
  template <typename Waits, typename Tell>
  void run_open(int64_t room, const Waits& waits, const Tell& tell) {
    std::vector<uint8_t> open(n_, 0);
    const auto look = [&] { return OpenRemover{open.data()}; };
    visit(room, look, [&](int64_t k, Fate fate) {
      if (fate == Fate::kKept && waits(k)) fate = Fate::kOpen;
      open[k] = fate == Fate::kOpen;
      tell(k, fate);
      return fate;
    });
  }

 private:
  // decide(k, fate) may leave a box open that would be kept.
  template <typename MakeLook, typename Decide>
  void visit(int64_t room, const MakeLook& look, const Decide& decide) {
    all_.reserve(n_);
    gone_.assign(ahead_ ? n_ : 0, 0);
    int64_t kept = 0;
    for (int64_t first = 0, end; first < n_ && kept < room; first = end) {
      end = ahead_ ? std::min(n_, std::max(kAheadFrom, 2 * first)) : n_;
      if (ahead_ && 2 * kept < first) look_ahead(first, end);
      with_simd([&](auto bytes) SSD_SIMD_BODY {
        using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
        for (int64_t k = first; k < end && kept < room; ++k) {
          Fate fate = Fate::kKept;
          if (ahead_ && gone_[k]) {
            fate = Fate::kRemoved;
          } else if (kinds_[k] != Kind::kInert) {
            auto found = look();
            search<V>(k, found);
            fate = found.removed() ? Fate::kRemoved : found.doubted() ? Fate::kOpen : Fate::kKept;
          }
          fate = decide(k, fate);
          kept += fate == Fate::kKept;
          if (kinds_[k] != Kind::kInert && fate != Fate::kRemoved) add(k);
        }
      });
    }
  }

  // Finds out, on all threads, which boxes of [first, end) are removed by those that are kept.
  void look_ahead(int64_t first, int64_t end) {
    parallel_grains(end - first, 128, [&](int64_t begin, int64_t stop) {
      with_simd([&](auto bytes) SSD_SIMD_BODY {
        using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
        for (int64_t k = first + begin; k < first + stop; ++k) {
          if (kinds_[k] == Kind::kInert) continue;
          AnyRemover found;
          search<V>(k, found);
          gone_[k] = found.removed();
        }
      });
    });
  }

  template <typename V, typename Look>
  SSD_SIMD_BODY void search(int64_t k, Look& found) const {
    const Candidate<T>& q = candidates_[k];
    if (!grid_.built() || kinds_[k] == Kind::kOdd) {
      return look_through<V>(all_, q, rule_, found);
    }
    if (odd_.size > 0) look_through<V>(odd_, q, rule_, found);
    if (!found.removed()) grid_.template search<V>(q, all_, found);
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
  template <typename Tell>
  void run_any_iou(int64_t room, const Tell& tell) {
    std::vector<const Candidate<T>*> kept;
    for (int64_t k = 0; k < n_ && static_cast<int64_t>(kept.size()) < room; ++k) {
      const Candidate<T>& q = candidates_[k];
      const bool removed = std::any_of(kept.begin(), kept.end(), [&](const Candidate<T>* c) {
        return c->cls == q.cls && rule_(c->box, c->area, q.box, q.area);
      });
      if (removed) continue;
      kept.push_back(&q);
      tell(k);
    }
  }

  SuppressRule<T> rule_;
  int64_t n_;
  std::unique_ptr<Candidate<T>[]> candidates_;
  std::vector<Kind> kinds_;
  KeptList<T> all_, odd_;
  std::vector<int64_t> early_;  // added before there was a grid
  Grid<T> grid_;
  bool ahead_ = false;
  std::vector<uint8_t> gone_;  // where ahead_
};

}  // namespace nms
}  // namespace ssd_cuda
