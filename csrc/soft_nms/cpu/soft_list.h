// One list of soft-NMS on the CPU: a pass over its boxes, a vector at a time, lowers the scores by the box that was chosen
// last and finds the next one. Memory: 7 numbers a box, whatever overlaps.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "common/cpu/exp_simd.h"
#include "common/cpu/lanes.h"
#include "soft_nms/soft_nms_rule.h"

namespace ssd_cuda {

template <typename T>
class SoftList {
 public:
  SoftList(const SuppressRule<T>& rule, const SoftDecay<T>& decay, T score_threshold)
      : rule_(rule), decay_(decay), threshold_(score_threshold) {}

  void reserve(int64_t n) {
    for (std::vector<T>* column : columns()) column->reserve(static_cast<std::size_t>(n + kPad));
    index_.reserve(static_cast<std::size_t>(n + kPad));
  }

  // A score at or below the threshold is dropped; a NaN is not, and is chosen before every number.
  void add(Vec4<T> box, T score, uint32_t index) {
    if (score <= threshold_) return;
    push(box, rule_.area(box), score, index);
    ++size_;
  }

  // fn(index, score) for each choice, at most `most` of them. Ends the list.
  template <typename Fn>
  void choose(int64_t most, const Fn& fn) {
    for (int64_t i = 0; i < kPad; ++i) push({}, T(0), kGone, 0);
    std::vector<int64_t> first;  // NaN scores, by position
    for (int64_t i = 0; i < size_; ++i) {
      if (score_[i] != score_[i]) first.push_back(i);
    }
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      int64_t best = first.empty() ? best_of<V>() : first[0];
      for (int64_t chosen = 0; chosen < most && best >= 0; ++chosen) {
        fn(index_[best], score_[best]);
        score_[best] = kGone;
        const int64_t next = lower<V>(best);
        const bool more = chosen + 1 < static_cast<int64_t>(first.size());
        best = more ? first[chosen + 1] : next;
        if (!more && chosen % kCompactEvery == 0) best = compact(best);
      }
    });
  }

 private:
  static constexpr T kGone =
      -std::numeric_limits<T>::infinity();  // a live number is above the threshold
  static constexpr int64_t kPad = 16, kCompactEvery = 32;

  std::array<std::vector<T>*, 6> columns() { return {&x1_, &y1_, &x2_, &y2_, &area_, &score_}; }
  void push(Vec4<T> box, T area, T score, uint32_t index) {
    x1_.push_back(box.x), y1_.push_back(box.y), x2_.push_back(box.z), y2_.push_back(box.w);
    area_.push_back(area), score_.push_back(score), index_.push_back(index);
  }

  // The best score of each lane and where it stands: the first of equal ones.
  template <typename V>
  struct Best {
    using M = decltype(V{} > V{});
    V score = V{} + kGone;
    M at = M{} - 1;
    SSD_SIMD_BODY void take(V candidate, M position) {
      const auto better = candidate > score;
      at = better ? position : at;
      score = better ? candidate : score;
    }
    // The position of the best of all lanes, the lowest of equal ones; -1 where nothing is left.
    SSD_SIMD_BODY int64_t position() const {
      T top = kGone;
      int64_t found = -1;
      for (int lane = 0; lane < kLanesOf<V>; ++lane) {
        if (at[lane] < 0 || score[lane] < top) continue;
        if (score[lane] > top || at[lane] < found) top = score[lane], found = at[lane];
      }
      return found;
    }
  };
  template <typename V>
  SSD_SIMD_BODY static auto first_positions() {
    typename Best<V>::M position{};
    for (int lane = 0; lane < kLanesOf<V>; ++lane) position[lane] = lane;
    return position;
  }

  template <typename V>
  SSD_SIMD_BODY int64_t best_of() const {
    Best<V> best;
    auto position = first_positions<V>();
    for (int64_t slot = 0; slot < size_; slot += kLanesOf<V>, position += kLanesOf<V>) {
      best.take(load_pack<V>(&score_[slot]), position);
    }
    return best.position();
  }

  // Lowers the scores by the box at a position; returns the position of the best number that is left.
  template <typename V>
  SSD_SIMD_BODY int64_t lower(int64_t chosen) {
    const V zero = V{}, gone = zero + kGone;
    const Vec4<V> box{zero + x1_[chosen], zero + y1_[chosen], zero + x2_[chosen],
                      zero + y2_[chosen]};
    const V area = zero + area_[chosen];
    Best<V> best;
    auto position = first_positions<V>();
    for (int64_t slot = 0; slot < size_; slot += kLanesOf<V>, position += kLanesOf<V>) {
      V score = load_pack<V>(&score_[slot]);
      const Vec4<V> other{load_pack<V>(&x1_[slot]), load_pack<V>(&y1_[slot]),
                          load_pack<V>(&x2_[slot]), load_pack<V>(&y2_[slot])};
      const V inter = intersection_area(box, other, zero + rule_.pixel_offset);
      if (any_lane(inter > zero)) {
        const V overlap = iou_of(inter, area, load_pack<V>(&area_[slot]), zero + rule_.eps);
        const V rest = SoftDecay<T>::lowered(
            score, decay_.template weight<PackOps>(inter > zero ? overlap : zero, rule_));
        const V left = rest <= zero + threshold_ ? gone : rest;
        score = score == gone ? gone : left;
        store_pack(&score_[slot], score);
      }
      best.take(score, position);
    }
    return best.position();
  }

  // Where most boxes are gone, closes the ranks; returns the new position of the best one.
  int64_t compact(int64_t best) {
    const auto live = size_ - std::count(score_.begin(), score_.begin() + size_, kGone);
    if (best < 0 || 2 * live > size_) return best;
    int64_t left = 0;
    for (int64_t i = 0; i < size_; ++i) {
      if (score_[i] == kGone) continue;
      if (i == best) best = left;
      for (std::vector<T>* column : columns()) (*column)[left] = (*column)[i];
      index_[left++] = index_[i];
    }
    std::fill(score_.begin() + left, score_.begin() + size_, kGone);
    size_ = left;
    return best;
  }

  const SuppressRule<T>& rule_;
  const SoftDecay<T>& decay_;
  T threshold_;
  int64_t size_ = 0;
  std::vector<T> x1_, y1_, x2_, y2_, area_, score_;
  std::vector<uint32_t> index_;
};

}  // namespace ssd_cuda
