// The localisation losses of boxes: GIoU (Rezatofighi et al. 2019), DIoU and CIoU (Zheng et al. 2020), each with its
// gradient, as torchvision.ops has them: generalized_, distance_ and complete_box_iou_loss with their eps. Each operation
// is rounded on its own, so that every device gives the same bits.
#pragma once

#include "box_math.h"

namespace ssd_cuda {

// What a localized prior costs: (smooth) L1 of its code, or one of the losses here of its box.
enum class LocLoss : int { kSmoothL1 = 0, kL1 = 1, kGiou = 2, kDiou = 3, kCiou = 4 };
SSD_HOST_DEVICE bool is_box_loss(LocLoss loss) { return loss >= LocLoss::kGiou; }

constexpr double kIouLossEps = 1e-7;

// atan(x) of any x. With |x| above tan(3 pi / 8) it is pi / 2 - atan(1 / |x|), above tan(pi / 8) pi / 4 + atan((|x| - 1) /
// (|x| + 1)): what is left, t, has t^2 < .1716, and atan(t) = t - t^3 / 3 + t^5 / 5 - ... alternates, so that the terms left
// out are less than the first of them: t z^10 / 21 < 1.1e-9 t in float32, t z^21 / 43 < 2e-18 t in float64. With the roundings
// of t and of the sum less than 3 units in the last place.
template <typename T>
SSD_HOST_DEVICE T atan_fixed(T x) {
  constexpr int kTerms = sizeof(T) == 8 ? 20 : 9;
  const T size = x < T(0) ? -x : x;
  const bool large = size > T(2.414213562373095), middle = size > T(0.4142135623730950) && !large;
  T t = size, turn = 0, turn_rest = 0;  // turn + turn_rest is pi / 2 or pi / 4
  if (large || middle) {
    constexpr double kHalfTurn = 1.5707963267948966;
    constexpr double kRest =
        sizeof(T) == 8 ? 6.123233995736766e-17 : kHalfTurn - double(float(kHalfTurn));
    const T part = large ? T(1) : T(0.5);
    t = large ? div_rn(T(-1), size) : div_rn(sub_rn(size, T(1)), add_rn(size, T(1)));
    turn = mul_rn(part, T(kHalfTurn));
    turn_rest = mul_rn(part, T(kRest));
  }
  const T z = mul_rn(t, t);
  T q = 0;
  for (int k = kTerms; k > 0; --k) {
    q = mul_rn(z, add_rn(T(k % 2 == 1 ? -1 : 1) / T(2 * k + 1), q));
  }
  const T angle = add_rn(turn, add_rn(t, add_rn(turn_rest, mul_rn(t, q))));
  return x < T(0) ? -angle : angle;
}

// A length along one axis, and what it gains where the first or the second corner of the predicted box grows.
template <typename T>
struct Extent {
  T length, first, second;
};

// d max(a, b) / da; at a tie half of it, as torch shares it out.
template <typename T>
SSD_HOST_DEVICE T share_of_larger(T a, T b) {
  return a > b ? T(1) : a == b ? T(0.5) : T(0);
}
// What [a1, a2] and [b1, b2] share.
template <typename T>
SSD_HOST_DEVICE Extent<T> common_extent(T a1, T a2, T b1, T b2) {
  return {sub_rn(min_of(a2, b2), max_of(a1, b1)), -share_of_larger(a1, b1),
          share_of_larger(b2, a2)};
}
// The least interval around both.
template <typename T>
SSD_HOST_DEVICE Extent<T> hull_extent(T a1, T a2, T b1, T b2) {
  return {sub_rn(max_of(a2, b2), min_of(a1, b1)), -share_of_larger(b1, a1),
          share_of_larger(a2, b2)};
}

// a x + b y
template <typename T>
SSD_HOST_DEVICE Vec4<T> sum_of(Vec4<T> a, T x, Vec4<T> b, T y) {
  return {add_rn(mul_rn(a.x, x), mul_rn(b.x, y)), add_rn(mul_rn(a.y, x), mul_rn(b.y, y)),
          add_rn(mul_rn(a.z, x), mul_rn(b.z, y)), add_rn(mul_rn(a.w, x), mul_rn(b.w, y))};
}
// The gradient by x1, y1, x2, y2 of what changes by along_x with the extent in x and by along_y with that in y.
template <typename T>
SSD_HOST_DEVICE Vec4<T> by_corners(Extent<T> x, T along_x, Extent<T> y, T along_y) {
  return {mul_rn(x.first, along_x), mul_rn(y.first, along_y), mul_rn(x.second, along_x),
          mul_rn(y.second, along_y)};
}

// A number and its gradient by the corners of the predicted box.
template <typename T>
struct Graded {
  T value;
  Vec4<T> gradient;
};

// Intersection, union and IoU with eps of a and b; one of the boxes with NaN has NaN for both of the latter.
template <typename T>
struct Overlap {
  Graded<T> common, together, iou;

  SSD_HOST_DEVICE Overlap(Vec4<T> a, Vec4<T> b) {
    const Extent<T> x = common_extent(a.x, a.z, b.x, b.z), y = common_extent(a.y, a.w, b.y, b.w);
    common = {T(0), {T(0), T(0), T(0), T(0)}};
    if (x.length > T(0) && y.length > T(0)) {
      common = {mul_rn(x.length, y.length), by_corners(x, y.length, y, x.length)};
    }
    const T w = sub_rn(a.z, a.x), h = sub_rn(a.w, a.y);
    together = {union_of(common.value, mul_rn(w, h), box_area(b)),
                sum_of(Vec4<T>{-h, -w, h, w}, T(1), common.gradient, T(-1))};
    const T whole = add_rn(together.value, T(kIouLossEps));
    iou.value = div_rn(common.value, whole);
    iou.gradient =
        sum_of(common.gradient, div_rn(T(1), whole), together.gradient, -div_rn(iou.value, whole));
  }
};

// 1 - IoU + (hull - union) / hull
template <typename T>
SSD_HOST_DEVICE Graded<T> giou_loss(Vec4<T> a, Vec4<T> b) {
  const Overlap<T> overlap(a, b);
  const Extent<T> x = hull_extent(a.x, a.z, b.x, b.z), y = hull_extent(a.y, a.w, b.y, b.w);
  const T hull = mul_rn(x.length, y.length), whole = add_rn(hull, T(kIouLossEps));
  const T free = div_rn(sub_rn(hull, overlap.together.value), whole);
  const Vec4<T> d_free =
      sum_of(by_corners(x, y.length, y, x.length), div_rn(sub_rn(T(1), free), whole),
             overlap.together.gradient, -div_rn(T(1), whole));
  return {sub_rn(T(1), sub_rn(overlap.iou.value, free)),
          sum_of(overlap.iou.gradient, T(-1), d_free, T(1))};
}

// 1 - IoU + (distance of the centres / diagonal of the hull)^2, and for CIoU + alpha v: v compares the shapes, alpha has no
// gradient.
template <typename T>
SSD_HOST_DEVICE Graded<T> distance_loss(Vec4<T> a, Vec4<T> b, bool complete) {
  const T half = T(0.5), eps = T(kIouLossEps);
  const Overlap<T> overlap(a, b);
  const Extent<T> x = hull_extent(a.x, a.z, b.x, b.z), y = hull_extent(a.y, a.w, b.y, b.w);
  const T diagonal = add_rn(add_rn(mul_rn(x.length, x.length), mul_rn(y.length, y.length)), eps);
  const T dx = sub_rn(mul_rn(half, add_rn(a.z, a.x)), mul_rn(half, add_rn(b.z, b.x)));
  const T dy = sub_rn(mul_rn(half, add_rn(a.w, a.y)), mul_rn(half, add_rn(b.w, b.y)));
  const T far = div_rn(add_rn(mul_rn(dx, dx), mul_rn(dy, dy)), diagonal);
  const T step = -div_rn(mul_rn(T(2), far), diagonal);
  const Vec4<T> d_far = sum_of(Vec4<T>{dx, dy, dx, dy}, div_rn(T(1), diagonal),
                               by_corners(x, x.length, y, y.length), step);
  Graded<T> loss{add_rn(sub_rn(T(1), overlap.iou.value), far),
                 sum_of(overlap.iou.gradient, T(-1), d_far, T(1))};
  if (!complete) return loss;
  const T w = sub_rn(a.z, a.x), h = sub_rn(a.w, a.y), ratio = div_rn(w, h);
  const T turn = sub_rn(atan_fixed(div_rn(sub_rn(b.z, b.x), sub_rn(b.w, b.y))), atan_fixed(ratio));
  constexpr T kFactor = T(0.4052847345693511);  // 4 / pi^2
  const T v = mul_rn(kFactor, mul_rn(turn, turn));
  const T alpha = div_rn(v, add_rn(add_rn(sub_rn(T(1), overlap.iou.value), v), eps));
  // d(alpha v) / d(ratio), then by w and h.
  const T by_ratio = -div_rn(mul_rn(mul_rn(T(2), alpha), mul_rn(kFactor, turn)),
                             add_rn(T(1), mul_rn(ratio, ratio)));
  const T by_w = div_rn(by_ratio, h), by_h = -mul_rn(by_w, ratio);
  loss.value = add_rn(loss.value, mul_rn(alpha, v));
  loss.gradient = sum_of(loss.gradient, T(1), Vec4<T>{-by_w, -by_h, by_w, by_h}, T(1));
  return loss;
}

template <typename T>
SSD_HOST_DEVICE Graded<T> iou_loss(Vec4<T> a, Vec4<T> b, LocLoss kind) {
  if (kind == LocLoss::kGiou) return giou_loss(a, b);
  return distance_loss(a, b, kind == LocLoss::kCiou);
}

}  // namespace ssd_cuda
