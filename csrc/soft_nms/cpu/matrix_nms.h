// Matrix NMS on the CPU: a box against the better ones of its class, a vector at a time. Memory: 7 numbers a box.
#pragma once

#include "soft_nms.h"
#include "soft_nms/matrix_nms_rule.h"

namespace ssd_cuda {

// The boxes of one class, best first, in columns that a vector may read past the end of.
template <typename T>
class MatrixList {
 public:
  MatrixList(const MatrixRule<T>& rule, const Vec4<T>* boxes,
             const std::vector<SoftChoice<T>>& order)
      : rule_(rule), n_(static_cast<int64_t>(order.size())) {
    constexpr int64_t kPad = 16;
    for (auto* column : {&x1_, &y1_, &x2_, &y2_, &area_, &c_}) {
      column->assign(static_cast<std::size_t>(n_ + kPad), T(0));
    }
    for (int64_t i = 0; i < n_; ++i) {
      const Vec4<T> b = boxes[order[i].index];
      x1_[i] = b.x, y1_[i] = b.y, x2_[i] = b.z, y2_[i] = b.w, area_[i] = rule.area(b);
    }
  }
  // [n] what each score is multiplied by.
  std::vector<T> factors() {
    std::vector<T> found(static_cast<std::size_t>(n_));
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      for (int64_t j = 0; j < n_; ++j) pass<V, false>(j, c_[j]);
      for (int64_t j = 0; j < n_; ++j) pass<V, true>(j, found[j]);
    });
    return found;
  }

 private:
  // Over the boxes before j: the greatest IoU, or (kDecay) the least quotient. Neither depends on the order.
  template <typename V, bool kDecay>
  SSD_SIMD_BODY void pass(int64_t j, T& result) const {
    const V zero = V{};
    const Vec4<V> box{zero + x1_[j], zero + y1_[j], zero + x2_[j], zero + y2_[j]};
    V best = zero + T(kDecay ? 1 : 0);
    auto place = first_places<V>();
    for (int64_t i = 0; i < j; i += kLanesOf<V>, place += kLanesOf<V>) {
      const Vec4<V> other{load_pack<V>(&x1_[i]), load_pack<V>(&y1_[i]), load_pack<V>(&x2_[i]),
                          load_pack<V>(&y2_[i])};
      V overlap = rule_.overlap(other, load_pack<V>(&area_[i]), box, zero + area_[j]);
      overlap = place < static_cast<LaneOf<decltype(place)>>(j) ? overlap : zero;
      if constexpr (kDecay) {
        if (!any_lane(overlap > zero)) continue;
        const V q = rule_.template quotient<PackOps>(overlap, load_pack<V>(&c_[i]));
        best = min_of(overlap > zero ? q : best, best);
      } else {
        best = max_of(overlap, best);
      }
    }
    result = best[0];
    for (int lane = 1; lane < kLanesOf<V>; ++lane) {
      result = kDecay ? min_of(best[lane], result) : max_of(best[lane], result);
    }
  }
  template <typename V>
  SSD_SIMD_BODY static auto first_places() {
    decltype(V{} > V{}) place{};
    for (int lane = 0; lane < kLanesOf<V>; ++lane) place[lane] = lane;
    return place;
  }

  const MatrixRule<T>& rule_;
  int64_t n_;
  std::vector<T> x1_, y1_, x2_, y2_, area_, c_;
};

// Matrix NMS of every class.
template <typename T>
std::vector<SoftChoice<T>> choices_of(const Vec4<T>* boxes, const T* scores, const int64_t* idxs,
                                      int64_t n, const MatrixRule<T>& rule, int64_t most) {
  const auto lower = [&](const uint32_t* order, int64_t size, auto& part) {
    std::vector<SoftChoice<T>> sorted;
    for (int64_t k = 0; k < size; ++k) sorted.push_back({scores[order[k]], order[k]});
    std::sort(sorted.begin(), sorted.end());
    const std::vector<T> factors = MatrixList<T>(rule, boxes, sorted).factors();
    for (int64_t k = 0; k < size; ++k) {
      const T score = rule.lowered(sorted[k].score, factors[k]);
      if (!rule.dropped(score)) part.push_back({score, sorted[k].index});
    }
  };
  return choices_by_class<T>(idxs, n, most, lower);
}

}  // namespace ssd_cuda
