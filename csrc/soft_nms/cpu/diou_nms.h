// DIoU-NMS on the CPU: a box against the kept ones of its class, a vector at a time.
#pragma once

#include "soft_nms.h"
#include "soft_nms/diou_nms_rule.h"

namespace ssd_cuda {

template <typename T>
class DiouKept {
 public:
  DiouKept(const DiouRule<T>& rule, int64_t n) : rule_(rule) {
    for (auto* column : {&x1_, &y1_, &x2_, &y2_, &area_}) {
      column->assign(static_cast<std::size_t>(n + kPad), std::numeric_limits<T>::quiet_NaN());
    }
  }
  // Keeps the box unless a kept one removes it. A free place is NaN, which removes nothing.
  bool keep(Vec4<T> box) {
    const T area = rule_.area(box);
    bool removed = false;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      const V zero = V{};
      const Vec4<V> own{zero + box.x, zero + box.y, zero + box.z, zero + box.w};
      for (int64_t i = 0; i < size_ && !removed; i += kLanesOf<V>) {
        const Vec4<V> kept{load_pack<V>(&x1_[i]), load_pack<V>(&y1_[i]), load_pack<V>(&x2_[i]),
                           load_pack<V>(&y2_[i])};
        removed = any_lane(rule_.removes(kept, load_pack<V>(&area_[i]), own, zero + area));
      }
    });
    if (removed) return false;
    x1_[size_] = box.x, y1_[size_] = box.y, x2_[size_] = box.z, y2_[size_] = box.w;
    area_[size_++] = area;
    return true;
  }

 private:
  static constexpr int64_t kPad = 16;
  const DiouRule<T>& rule_;
  int64_t size_ = 0;
  std::vector<T> x1_, y1_, x2_, y2_, area_;
};

// The kept boxes by (score descending, index ascending), NaN first; at most `most`.
template <typename T>
std::vector<SoftChoice<T>> choices_of(const Vec4<T>* boxes, const T* scores, const int64_t* idxs,
                                      int64_t n, const DiouRule<T>& rule, int64_t most) {
  return choices_by_class<T>(idxs, n, most, [&](const uint32_t* order, int64_t size, auto& part) {
    std::vector<SoftChoice<T>> sorted;
    for (int64_t k = 0; k < size; ++k) sorted.push_back({scores[order[k]], order[k]});
    std::sort(sorted.begin(), sorted.end());
    DiouKept<T> kept(rule, size);
    for (const SoftChoice<T>& box : sorted) {
      if (kept.keep(boxes[box.index])) part.push_back(box);
    }
  });
}

}  // namespace ssd_cuda
