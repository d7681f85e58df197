// One tile of priors against the ground truths of one image, on the CPU, without an IoU matrix.
//
// Priors are laid out by coordinate, in groups with the bounding box of each group. For a ground truth only
// the groups whose bounding box it touches are visited: elsewhere the IoU is exactly 0. That shortcut needs
// areas that cannot make a NaN or a negative union, so a tile with a bad prior and an image with a bad
// ground truth take the plain loop instead.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "common/cpu/simd.h"
#include "matching/matching_rule.h"
#include "matching/prior_group.h"

namespace ssd_cuda {

template <typename T>
constexpr int kGroup = 64 / sizeof(T);  // priors whose bounding box is tested at once

// Corners, areas and group bounds of the priors of one image, by coordinate.
template <typename T>
struct PriorTable {
  int64_t padded = 0, groups = 0;
  std::vector<T> x1, y1, x2, y2, area;                    // [padded]
  std::vector<T> group_x1, group_y1, group_x2, group_y2;  // [groups]
  std::vector<char> group_safe;                           // [groups]

  void resize(int64_t priors) {
    groups = (priors + kGroup<T> - 1) / kGroup<T>;
    padded = groups * kGroup<T>;
    for (auto* v : {&x1, &y1, &x2, &y2, &area}) v->resize(padded);
    for (auto* v : {&group_x1, &group_y1, &group_x2, &group_y2}) v->resize(groups);
    group_safe.resize(groups);
  }

  Vec4<T> corners(int64_t p) const { return {x1[p], y1[p], x2[p], y2[p]}; }

  // Groups [first, last) of priors [priors, 4]; rows past the end become empty boxes that touch nothing.
  void fill(const Vec4<T>* rows, int64_t priors, const MatchRule<T>& rule, int64_t first,
            int64_t last) {
    constexpr T kInf = std::numeric_limits<T>::infinity();
    for (int64_t g = first; g < last; ++g) {
      Vec4<T> bound{kInf, kInf, -kInf, -kInf};
      bool safe = true;
      for (int64_t p = g * kGroup<T>; p < (g + 1) * kGroup<T>; ++p) {
        const bool real = p < priors;
        const Vec4<T> c = real ? rule.corners(rows[p]) : Vec4<T>{0, 0, 0, 0};
        const T a = rule.prior_area(c);
        x1[p] = c.x, y1[p] = c.y, x2[p] = c.z, y2[p] = c.w, area[p] = a;
        if (!real) continue;
        safe = safe && a >= T(0);  // also: no NaN
        bound = {std::min(bound.x, c.x), std::min(bound.y, c.y), std::max(bound.z, c.z),
                 std::max(bound.w, c.w)};
      }
      group_x1[g] = bound.x, group_y1[g] = bound.y, group_x2[g] = bound.z, group_y2[g] = bound.w;
      group_safe[g] = safe;
    }
  }
};

template <typename T>
struct Truth {
  Vec4<T> box;
  T area;
  int32_t index;  // within its image
};

// The truths of an image that take part, and whether all of them allow the shortcut.
template <typename T>
bool gather_truths(const Vec4<T>* boxes, TruthRange range, const MatchRule<T>& rule,
                   std::vector<Truth<T>>& truths) {
  truths.clear();
  bool safe = true;
  for (int64_t i = 0; i < range.count; ++i) {
    const Vec4<T> box = boxes[range.begin + i];
    if (!rule.takes_part(box)) continue;
    const T area = rule.truth_area(box);
    safe = safe && is_bounded_truth(box, area);
    truths.push_back({box, area, static_cast<int32_t>(i)});
  }
  return safe;
}

// One tile's scratch: best overlap and owner of each prior, and the groups a ground truth touches.
template <typename T>
struct TileScratch {
  std::vector<T> best;            // [tile]
  std::vector<IndexOf<T>> owner;  // [tile]
  std::vector<int32_t> touched;   // [groups of the tile]
  std::vector<Truth<T>> truths;
};

template <typename V>
SSD_SIMD_BODY inline V pack_min(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
SSD_SIMD_BODY inline V pack_max(V a, V b) {
  return a > b ? a : b;
}

// Groups [first, last) whose bounds overlap the box, as a list; returns its length.
template <typename T, int kBytes>
SSD_SIMD_BODY inline int touched_groups(const PriorTable<T>& table, Vec4<T> box, int64_t first,
                                        int64_t last, int32_t* list) {
  constexpr int kLanes = kBytes / sizeof(T);
  using V = Pack<T, kLanes>;
  using I = Pack<IndexOf<T>, kLanes>;
  int count = 0;
  int64_t g = first;
  for (; g + kLanes <= last; g += kLanes) {
    const I hit = (load_pack<V>(&table.group_x1[g]) < V{} + box.z) &
                  (load_pack<V>(&table.group_x2[g]) > V{} + box.x) &
                  (load_pack<V>(&table.group_y1[g]) < V{} + box.w) &
                  (load_pack<V>(&table.group_y2[g]) > V{} + box.y);
    for (int lane = 0; lane < kLanes; ++lane) {
      list[count] = static_cast<int32_t>(g) + lane;
      count -= static_cast<int>(hit[lane]);
    }
  }
  for (; g < last; ++g) {
    list[count] = static_cast<int32_t>(g);
    count += table.group_x1[g] < box.z && table.group_x2[g] > box.x && table.group_y1[g] < box.w &&
             table.group_y2[g] > box.y;
  }
  return count;
}

// One ground truth against the groups it touches: updates best and owner, returns its best prior there.
// Overlaps are >= 0 and no NaN here, so plain comparisons suffice. Truths come in an order in which strict
// > keeps the right one of equals.
template <typename T, int kBytes>
SSD_SIMD_BODY inline BestPrior<T> match_touched(const PriorTable<T>& table, const Truth<T>& truth,
                                                T eps, bool tie_last, const int32_t* list,
                                                int count, int64_t base, T* best,
                                                IndexOf<T>* owner) {
  constexpr int kLanes = kBytes / sizeof(T);
  using V = Pack<T, kLanes>;
  using I = Pack<IndexOf<T>, kLanes>;
  I lane_index;
  for (int lane = 0; lane < kLanes; ++lane) lane_index[lane] = lane;
  const V zero{}, gx1 = zero + truth.box.x, gy1 = zero + truth.box.y, gx2 = zero + truth.box.z,
                  gy2 = zero + truth.box.w, garea = zero + truth.area, geps = zero + eps;
  const I index = I{} + truth.index, ties = I{} - static_cast<IndexOf<T>>(tie_last);
  V top{};
  I top_prior = I{} - 1;
  for (int i = 0; i < count; ++i) {
    for (int64_t p = list[i] * int64_t{kGroup<T>}; p < (list[i] + 1) * int64_t{kGroup<T>};
         p += kLanes) {
      const V w =
          pack_min(gx2, load_pack<V>(&table.x2[p])) - pack_max(gx1, load_pack<V>(&table.x1[p]));
      const V h =
          pack_min(gy2, load_pack<V>(&table.y2[p])) - pack_max(gy1, load_pack<V>(&table.y1[p]));
      const V inter = pack_max(w, zero) * pack_max(h, zero);
      const V value = inter / (((garea + load_pack<V>(&table.area[p])) - inter) + geps);
      const V old = load_pack<V>(best + (p - base));
      const I wins = value > old;
      store_pack(best + (p - base), wins ? value : old);
      store_pack(owner + (p - base), wins ? index : load_pack<I>(owner + (p - base)));
      const I tops = (value > top) | ((value == top) & ties);
      top = tops ? value : top;
      top_prior = tops ? lane_index + static_cast<IndexOf<T>>(p) : top_prior;
    }
  }
  BestPrior<T> result{T(0), -1};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (top[lane] > T(0)) {
      result.merge({top[lane], top_prior[lane]}, tie_last);
    }
  }
  return result;
}

// Priors [begin, end) of one image against its truths. codes: [P]; tops: [truths of the image].
template <typename T>
class TileMatcher {
 public:
  TileMatcher(const MatchRule<T>& rule, const PriorTable<T>& table, TileScratch<T>& scratch,
              int64_t begin, int64_t end)
      : rule_(rule), table_(table), scratch_(scratch), begin_(begin), end_(end) {
    const int64_t first = begin / kGroup<T>, last = (end + kGroup<T> - 1) / kGroup<T>;
    first_ = first, last_ = last;
    scratch.best.resize((last - first) * kGroup<T>);
    scratch.owner.resize((last - first) * kGroup<T>);
    scratch.touched.resize(last - first +
                           1);  // one past: the branch-free list writes before it counts
  }

  void run(bool truths_safe, int32_t* codes, BestPrior<T>* tops) {
    const bool safe = truths_safe && std::all_of(table_.group_safe.begin() + first_,
                                                 table_.group_safe.begin() + last_,
                                                 [](char ok) { return ok != 0; });
    if (scratch_.truths.empty()) return std::fill(codes + begin_, codes + end_, kBackground);
    if (safe) {
      match_fast(tops);
    } else {
      match_plain(tops);
    }
    for (int64_t p = begin_; p < end_; ++p) {
      codes[p] =
          rule_.code(scratch_.best[p - begin_], static_cast<int32_t>(scratch_.owner[p - begin_]));
    }
  }

 private:
  void match_fast(BestPrior<T>* tops) {
    const auto& truths = scratch_.truths;
    const bool last = rule_.tie_last;
    const int64_t count = static_cast<int64_t>(truths.size());
    const int64_t edge = last ? end_ - 1 : begin_;  // the best prior of a truth that touches none
    const IndexOf<T> untouched = last ? truths.back().index : truths.front().index;
    std::fill(scratch_.best.begin(), scratch_.best.end(), T(0));
    std::fill(scratch_.owner.begin(), scratch_.owner.end(), untouched);
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      constexpr int kBytes = decltype(bytes)::value;
      for (int64_t i = 0; i < count; ++i) {
        const Truth<T>& truth = truths[last ? count - 1 - i : i];
        const int touched =
            touched_groups<T, kBytes>(table_, truth.box, first_, last_, scratch_.touched.data());
        BestPrior<T> top =
            match_touched<T, kBytes>(table_, truth, rule_.eps, last, scratch_.touched.data(),
                                     touched, begin_, scratch_.best.data(), scratch_.owner.data());
        if (top.prior < 0) top = {T(0), static_cast<IndexOf<T>>(edge)};
        tops[truth.index] = top;
      }
    });
  }

  void match_plain(BestPrior<T>* tops) {
    std::fill(scratch_.owner.begin(), scratch_.owner.end(), IndexOf<T>(-1));
    for (const Truth<T>& truth : scratch_.truths) {
      BestPrior<T> top{T(0), -1};
      for (int64_t p = begin_; p < end_; ++p) {
        const T value = rule_.overlap(truth.box, truth.area, table_.corners(p), table_.area[p]);
        T& best = scratch_.best[p - begin_];
        IndexOf<T>& owner = scratch_.owner[p - begin_];
        if (owner < 0 || rule_.replaces(value, best)) best = value, owner = truth.index;
        top.merge({value, static_cast<IndexOf<T>>(p)}, rule_.tie_last);
      }
      tops[truth.index] = top;
    }
  }

  const MatchRule<T>& rule_;
  const PriorTable<T>& table_;
  TileScratch<T>& scratch_;
  int64_t begin_, end_, first_, last_;
};

}  // namespace ssd_cuda
