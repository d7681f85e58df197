// DIoU-NMS (Zheng et al. 2020): NMS by IoU - d^2 / c^2, d the distance of the centres, c the diagonal of the least box
// around both. It is at most the IoU: boxes whose centres are apart are spared. 0 / 0, two boxes that are one point, is NaN
// and removes nothing.
#pragma once

#include "nms/nms_rule.h"

namespace ssd_cuda {

SSD_OPTION_STRUCT(DiouNmsSettings, SSD_NMS_PADDED_OPTIONS);

template <typename T>
struct DiouRule {
  SuppressRule<T> suppress;

  SSD_HOST_DEVICE T area(Vec4<T> box) const { return suppress.area(box); }
  // d^2 / c^2, of twice the distances: the factor 4 is exact. V: T, or a vector of T.
  template <typename V>
  static SSD_HOST_DEVICE V distance(Vec4<V> a, Vec4<V> b) {
    const V dx = sub_rn(add_rn(a.x, a.z), add_rn(b.x, b.z));
    const V dy = sub_rn(add_rn(a.y, a.w), add_rn(b.y, b.w));
    const V w = sub_rn(max_number(a.z, b.z), min_number(a.x, b.x));
    const V h = sub_rn(max_number(a.w, b.w), min_number(a.y, b.y));
    const V c = add_rn(mul_rn(w, w), mul_rn(h, h));
    return div_rn(add_rn(mul_rn(dx, dx), mul_rn(dy, dy)), mul_rn(V{} + T(4), c));
  }
  template <typename V>
  SSD_HOST_DEVICE auto removes(Vec4<V> kept, V kept_area, Vec4<V> box, V box_area) const {
    const V overlap =
        iou(kept, kept_area, box, box_area, V{} + suppress.eps, V{} + suppress.pixel_offset);
    return suppress.passes(sub_rn(overlap, distance(kept, box)));
  }

  // What the choosing kernel asks of a rule: see SoftRule.
  SSD_HOST_DEVICE bool dropped(T) const { return false; }
  SSD_HOST_DEVICE Ordered<T> after(Ordered<T> key, Vec4<T> a, T area_a, Vec4<T> b, T area_b) const {
    return removes(a, area_a, b, area_b) ? Ordered<T>(0) : key;
  }
};

template <typename T>
inline DiouRule<T> rule_of(const DiouNmsSettings& settings) {
  return {suppress_rule_of<T>(settings)};
}

}  // namespace ssd_cuda
