// What every NMS of this project agrees on: the order of the boxes and the test of one box against another.
#pragma once

#include "box_math.h"
#include "ordered_key.h"

namespace ssd_cuda {

// Boxes come in the order of their ordered_key, the largest first: NaN before everything, all NaNs equal, -0 equal to +0, as
// in torch.sort(descending=True), ties going to the lower index.
//
// Sorting these in ascending order puts boxes in (score descending, index ascending) order.
SSD_HOST_DEVICE uint64_t order_key(float score, uint32_t index) {
  return (static_cast<uint64_t>(~ordered_key(score)) << 32) | index;
}

// Whether a kept box removes another: IoU > threshold, or >= when inclusive. An IoU that is NaN (two empty
// boxes, a box with a NaN or infinite side) removes nothing.
template <typename T>
struct SuppressRule {
  T threshold;
  T eps;           // added to the union
  T pixel_offset;  // see box_area
  bool inclusive;
  T surely_above, surely_below;  // threshold (1 +- 2^-20): see operator()

  // V: T, or a vector of T (simd.h), which gives a mask.
  template <typename V>
  SSD_HOST_DEVICE auto passes(V value) const {
    return inclusive ? value >= threshold : value > threshold;
  }
  SSD_HOST_DEVICE T area(Vec4<T> box) const { return box_area(box, pixel_offset); }
  // Whether boxes that do not overlap count too: 0 >= 0.
  SSD_HOST_DEVICE bool any_pair() const { return inclusive && threshold == T(0); }
  SSD_HOST_DEVICE bool operator()(Vec4<T> a, T area_a, Vec4<T> b, T area_b) const {
    const T inter = intersection_area(a, b, pixel_offset);
    if (!(inter > T(0)) && !any_pair()) return false;  // spares most pairs the rest
    // An IoU that is not next to the threshold needs no division. Rounding is monotone: inter > fl(surely_above u) says
    // that inter > surely_above u but for one rounding of 2^-24, so the true quotient is above threshold (1 + 2^-21) and the
    // rounded one above the threshold; likewise below. A subnormal product lies on the grid of inter itself, so that the
    // comparison is the exact one. NaN is left to the division. Boxes that overlap have a positive union; a negative one
    // is seen only where any pair counts, and there 0 > -inf says what -0 >= 0 does.
    const T u = union_of(inter, area_a, area_b, eps);
    if (inter > mul_rn(surely_above, u)) return true;
    if (inter < mul_rn(surely_below, u)) return false;
    return passes(div_rn(inter, u));
  }
  // The same without a branch: whether it is so, or only the division can tell.
  struct Sure {
    bool yes, unclear;
  };
  SSD_HOST_DEVICE Sure sure(Vec4<T> a, T area_a, Vec4<T> b, T area_b) const {
    const T inter = intersection_area(a, b, pixel_offset);
    const T u = union_of(inter, area_a, area_b, eps);
    const bool may = inter > T(0) || any_pair(), above = inter > mul_rn(surely_above, u);
    const bool below = inter < mul_rn(surely_below, u);
    return {may && above, may && !above && !below};
  }
#if !defined(__CUDA_ARCH__)
  // The same test of a vector of boxes against one, as a mask. A free lane has area NaN.
  template <typename V>
  SSD_HOST_DEVICE auto lanes(Vec4<V> kept, V kept_area, Vec4<T> box, T area) const {
    const V zero = V{};
    const Vec4<V> other{zero + box.x, zero + box.y, zero + box.z, zero + box.w};
    return passes(iou(kept, kept_area, other, zero + area, zero + eps, zero + pixel_offset));
  }
#endif
};

// The rule for a threshold given in double. torchvision's CPU kernel compares an fp32 IoU with it in double
// (its CUDA kernel rounds the threshold to the nearest float first, so it differs at IoU == float(threshold)
// for 0.1, 0.2, 0.3 ...). An fp32 v satisfies v > t exactly when v > (t rounded down to fp32), and v >= t exactly
// when v >= (t rounded up): rounding once on the host gives the same decision on every device.
template <typename T>
inline SuppressRule<T> suppress_rule(double threshold, bool inclusive, double eps = 0,
                                     double pixel_offset = 0) {
  T rounded = static_cast<T>(threshold);
  if (!inclusive && rounded > threshold) rounded = std::nextafter(rounded, T(-INFINITY));
  if (inclusive && rounded < threshold) rounded = std::nextafter(rounded, T(INFINITY));
  const bool wide =
      rounded >= T(0x1p-20);  // a smaller quotient may round to the threshold, or to 0
  return {.threshold = rounded,
          .eps = static_cast<T>(eps),
          .pixel_offset = static_cast<T>(pixel_offset),
          .inclusive = inclusive,
          .surely_above = wide ? rounded * (1 + T(0x1p-20)) : T(INFINITY),
          .surely_below = wide ? rounded * (1 - T(0x1p-20)) : T(-1)};
}

}  // namespace ssd_cuda
