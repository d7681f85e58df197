// Greedy suppression on several threads: the result of nms_sweep.h, a panel of boxes at a time.
//
// All boxes of a panel go into the grid beside those that are kept. Then each of them, on any thread, looks for what
// removes it among the boxes before it: one that is kept settles it; those of its own panel are written down, for nobody
// has decided them. Last, in score order, on one thread: a box is removed if a box that it wrote down is kept. That is the greedy
// rule, whatever the threads did. Where most boxes of the last panel were removed, those that a kept box removes are
// sorted out first, so that they fill no cells.
#pragma once

#include <algorithm>
#include <vector>

#include "kept_grid.h"

namespace ssd_cuda {
namespace nms {

constexpr int64_t kPanelLeast = 1024, kPanelMost = 16384;
constexpr int64_t kPanelGrain = 64;
constexpr uint32_t kMostRivals = 6;

// What removes a box of the panel.
struct Rivals {
  bool removed;  // a kept box does
  uint32_t
      count;  // else so many of the panel; more than kMostRivals: they were not all written down
  uint32_t ranks[kMostRivals];
};

// Finds them for the box of a rank, while the boxes from `first` on are undecided.
struct RivalsLook {
  static constexpr bool kRanked = true;
  uint32_t before, first;
  Rivals found;

  template <typename T>
  SSD_SIMD_BODY void at(const KeptList<T>& list, int64_t slot, uint32_t bits) {
    for (; bits != 0; bits &= bits - 1) {
      const uint32_t other = static_cast<uint32_t>(list.ranks[slot + __builtin_ctz(bits)]);
      if (other < first) {
        found.removed = true;
      } else if (found.count++ < kMostRivals) {
        found.ranks[found.count - 1] = other;
      }
    }
  }
  SSD_SIMD_BODY bool done() const { return found.removed || found.count > kMostRivals; }
};

// Whether a kept box removes that of a rank, when all before it are decided.
struct DecidedLook {
  static constexpr bool kRanked = true;
  uint32_t before;
  const std::vector<uint8_t>& kept;
  bool removed = false;

  template <typename T>
  SSD_SIMD_BODY void at(const KeptList<T>& list, int64_t slot, uint32_t bits) {
    for (; bits != 0; bits &= bits - 1) {
      removed |= kept[list.ranks[slot + __builtin_ctz(bits)]] != 0;
    }
  }
  SSD_SIMD_BODY bool done() const { return removed; }
};

// Of candidates without an odd one. grid and all hold the kept boxes before the first panel.
template <typename T>
class Panels {
 public:
  Panels(const Candidate<T>* candidates, const Kind* kinds, int64_t n, Grid<T>& grid,
         KeptList<T>& all)
      : candidates_(candidates), kinds_(kinds), n_(n), grid_(grid), all_(all), kept_(n) {
    for (int64_t slot = 0; slot < all.size; ++slot) kept_[all.ranks[slot]] = 1;
  }

  // Appends the places in score order of the boxes that are kept from `first` on, until there are `room`.
  void run(int64_t first, int64_t room, std::vector<uint32_t>& result) {
    bool crowded = false;
    while (first < n_ && static_cast<int64_t>(result.size()) < room) {
      const int64_t end = std::min(n_, first + std::clamp(all_.size, kPanelLeast, kPanelMost));
      open_.clear();
      for (int64_t k = first; k < end; ++k) {
        if (kinds_[k] == Kind::kNormal) open_.push_back(static_cast<uint32_t>(k));
      }
      const std::size_t normal = open_.size();
      if (crowded) drop_removed();
      open();
      look(first);
      const std::size_t kept = decide(first, end, result);
      close(static_cast<int64_t>(kept));
      crowded = 2 * kept < normal;
      first = end;
    }
  }

 private:
  // fn(V, i) for every open box.
  template <typename Fn>
  void for_each_open(const Fn& fn) const {
    parallel_grains(static_cast<int64_t>(open_.size()), kPanelGrain,
                    [&](int64_t begin, int64_t end) {
                      with_simd([&](auto bytes) SSD_SIMD_BODY {
                        using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
                        for (int64_t i = begin; i < end; ++i) fn(V{}, i);
                      });
                    });
  }

  void drop_removed() {
    gone_.assign(open_.size(), 0);
    for_each_open([&](auto lanes, int64_t i) SSD_SIMD_BODY {
      AnyRemover found;
      grid_.template search<decltype(lanes)>(candidates_[open_[i]], all_, found);
      gone_[i] = found.done();
    });
    std::size_t left = 0;
    for (std::size_t i = 0; i < open_.size(); ++i) {
      if (!gone_[i]) open_[left++] = open_[i];
    }
    open_.resize(left);
  }

  // fn(part, parts) for every part of the grid's buckets, a thread each; a few boxes are not worth waking them.
  template <typename Fn>
  void by_parts(int64_t boxes, const Fn& fn) const {
    const int64_t parts = boxes < kPanelLeast ? 1 : task_threads();
    if (parts == 1) return fn(0, 1);
    parallel_grains(parts, 1, [&](int64_t part, int64_t) { fn(part, parts); });
  }

  void open() {
    const int64_t count = static_cast<int64_t>(open_.size());
    by_parts(count, [&](int64_t part, int64_t parts) {
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t k = open_[i];
        if (grid_.part(k, parts) != part) continue;
        grid_.place(k, candidates_[k]);
        all_.set(all_.size + i, candidates_[k], k);
      }
    });
    all_.size += static_cast<int64_t>(open_.size());
    for (uint32_t k : open_) grid_.count(k, 1);
  }

  void look(int64_t first) {
    rivals_.resize(open_.size());
    for_each_open([&](auto lanes, int64_t i) SSD_SIMD_BODY {
      RivalsLook look{open_[i], static_cast<uint32_t>(first), {false, 0, {}}};
      grid_.template search<decltype(lanes)>(candidates_[open_[i]], all_, look);
      rivals_[i] = look.found;
    });
  }

  // How many open boxes are kept; results: these and the inert ones.
  std::size_t decide(int64_t first, int64_t end, std::vector<uint32_t>& result) {
    std::size_t next = 0, count = 0;
    for (int64_t k = first; k < end; ++k) {
      if (kinds_[k] == Kind::kNormal) {
        if (next == open_.size() || open_[next] != k) continue;
        if (is_removed(static_cast<uint32_t>(k), rivals_[next++])) continue;
        kept_[k] = 1;
        ++count;
      }
      result.push_back(static_cast<uint32_t>(k));
    }
    return count;
  }

  bool is_removed(uint32_t k, const Rivals& found) const {
    if (found.removed) return true;
    if (found.count > kMostRivals) return removed_by_decided(k);
    return std::any_of(found.ranks, found.ranks + found.count,
                       [&](uint32_t rival) { return kept_[rival] != 0; });
  }

  __attribute__((noinline)) bool removed_by_decided(uint32_t rank) const {
    DecidedLook look{rank, kept_};
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      grid_.template search<V>(candidates_[rank], all_, look);
    });
    return look.removed;
  }

  // What was removed leaves the grid, and its slots of the list stay free.
  void close(int64_t kept) {
    const int64_t count = static_cast<int64_t>(open_.size()), first = all_.size - count;
    by_parts(count - kept, [&](int64_t part, int64_t parts) {
      for (int64_t i = count; i-- > 0;) {
        const uint32_t k = open_[i];
        if (kept_[k] || grid_.part(k, parts) != part) continue;
        grid_.displace(k, candidates_);
        all_.clear(first + i);
      }
    });
    for (uint32_t k : open_) {
      if (!kept_[k]) grid_.count(k, -1);
    }
  }

  const Candidate<T>* candidates_;
  const Kind* kinds_;
  int64_t n_;
  Grid<T>& grid_;
  KeptList<T>& all_;
  std::vector<uint8_t> kept_, gone_;
  std::vector<uint32_t> open_;  // normal boxes of the panel that may be kept
  std::vector<Rivals> rivals_;
};

}  // namespace nms
}  // namespace ssd_cuda
