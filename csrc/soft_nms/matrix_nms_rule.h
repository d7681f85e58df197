// Matrix NMS (Wang et al. 2020, SOLOv2): all scores are lowered at once.
//
// With boxes in the order of NMS and c(i) the greatest IoU of box i with a better box of its class, the score of box j
// becomes s * min over better boxes i of its class of f(IoU(i, j)) / f(c(i)), at most s:
//   gaussian   f(x) = exp(-sigma x^2), so the quotient is exp(sigma (c^2 - IoU^2))
//   linear     f(x) = 1 - x
// A NaN IoU, or quotient (0 / 0: a box that a better one covers exactly), lowers nothing. sigma multiplies, as in the
// authors' code (2.0 there); the paper's text divides.
#pragma once

#include "nms/nms_rule.h"

namespace ssd_cuda {

#define SSD_MATRIX_NMS_OPTIONS(X) \
  X(double, sigma)                \
  X(bool, linear)                 \
  X(double, iou_eps)              \
  X(double, pixel_offset)         \
  X(double, score_threshold)      \
  X(OpenInt, max_output)

SSD_OPTION_STRUCT(MatrixNmsSettings, SSD_MATRIX_NMS_OPTIONS);

// V: T, or a vector of T with PackOps.
template <typename T>
struct MatrixRule {
  T sigma;
  bool linear;
  T eps, pixel_offset;
  T score_threshold;  // what is lowered to it or below is dropped

  SSD_HOST_DEVICE T area(Vec4<T> box) const { return box_area(box, pixel_offset); }
  // 0 for a NaN: it neither compensates nor lowers.
  template <typename V>
  SSD_HOST_DEVICE V overlap(Vec4<V> a, V area_a, Vec4<V> b, V area_b) const {
    const V inter = intersection_area(a, b, V{} + pixel_offset);
    const V value = iou_of(inter, area_a, area_b, V{} + eps);
    const V positive = value > V{} ? value : V{};
    return inter > V{} ? positive : V{};
  }
  // f(overlap) / f(c), at most 1.
  template <typename Ops = ScalarOps, typename V>
  SSD_HOST_DEVICE V quotient(V overlap, V c) const {
    const V one = V{} + T(1);
    V q;
    if (linear) {
      q = div_rn(overlap < one ? sub_rn(one, overlap) : V{}, c < one ? sub_rn(one, c) : V{});
    } else {
      q = exp_by<Ops>(mul_rn(V{} + sigma, sub_rn(mul_rn(c, c), mul_rn(overlap, overlap))));
    }
    return q < one ? q : one;
  }
  // An infinite score times 0 is 0; a NaN stays.
  SSD_HOST_DEVICE T lowered(T score, T least) const {
    const T product = mul_rn(score, least);
    return product == product || score != score ? product : T(0);
  }
  SSD_HOST_DEVICE bool dropped(T score) const { return score <= score_threshold; }
};

template <typename T>
inline MatrixRule<T> rule_of(const MatrixNmsSettings& settings) {
  return {static_cast<T>(settings.sigma), settings.linear, static_cast<T>(settings.iou_eps),
          static_cast<T>(settings.pixel_offset), static_cast<T>(settings.score_threshold)};
}

}  // namespace ssd_cuda
