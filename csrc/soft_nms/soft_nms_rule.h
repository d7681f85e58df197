// How a chosen box lowers the scores of others (soft-NMS, Bodla et al. 2017), for the op and for detect.
//
// The best score is chosen; every other score s of its list becomes s * weight(IoU with the chosen box):
//   gaussian   exp(-IoU^2 / sigma)
//   linear     1 - IoU where the IoU exceeds the threshold of the rule, else 1
// and what falls to the score threshold is dropped. A NaN IoU lowers nothing. Weights lie in [0, 1], so scores never
// rise: the choices come with scores that descend, ties by position.
#pragma once

#include "common/math/nms_math.h"
#include "common/options.h"
#include "nms/nms_rule.h"

namespace ssd_cuda {

#define SSD_SOFT_OPTIONS(X)                                                \
  X(double, soft_sigma) /* width of the gaussian; in detect 0: hard NMS */ \
  X(bool, soft_linear)

#define SSD_SOFT_NMS_OPTIONS(X) \
  SSD_SUPPRESS_OPTIONS(X)       \
  SSD_SOFT_OPTIONS(X)           \
  X(double, score_threshold)    \
  X(OpenInt, max_output)

SSD_OPTION_STRUCT(SoftNmsSettings, SSD_SOFT_NMS_OPTIONS);

template <typename T>
struct SoftDecay {
  T sigma;
  bool linear;

  // V: T, or a vector of T with PackOps. Exactly 1 for an IoU of 0.
  template <typename Ops = ScalarOps, typename V>
  SSD_HOST_DEVICE V weight(V overlap, const SuppressRule<T>& rule) const {
    const V one = V{} + T(1);
    if (linear) {
      const V rest = overlap < one ? sub_rn(one, overlap) : V{};
      return rule.passes(overlap) ? rest : one;
    }
    const V w = exp_negative_by<Ops>(div_rn(-mul_rn(overlap, overlap), V{} + sigma));
    return overlap == overlap ? w : one;
  }
  // A weight of 0 takes an infinite score too; a NaN stays one.
  template <typename V>
  static SSD_HOST_DEVICE V lowered(V score, V weight) {
    const V product = mul_rn(score, weight);
    const V rest = score == score ? V{} : score;
    return product == product ? product : rest;
  }
  // The score of b after a was chosen.
  SSD_HOST_DEVICE T after(T score, Vec4<T> a, T area_a, Vec4<T> b, T area_b,
                          const SuppressRule<T>& rule) const {
    const T inter = intersection_area(a, b, rule.pixel_offset);
    if (!(inter > T(0))) return score;  // the weight is 1; spares most pairs the rest
    return lowered(score, weight(iou_of(inter, area_a, area_b, rule.eps), rule));
  }
};

template <typename T, typename Settings>
inline SoftDecay<T> soft_decay_of(const Settings& settings) {
  return {static_cast<T>(settings.soft_sigma), settings.soft_linear};
}

// The whole rule of the op.
template <typename T>
struct SoftRule {
  SuppressRule<T> overlap;
  SoftDecay<T> decay;
  T score_threshold;  // >= 0
  SSD_HOST_DEVICE bool dropped(T score) const { return score <= score_threshold; }
  SSD_HOST_DEVICE T area(Vec4<T> box) const { return overlap.area(box); }
  // The key of a score of b once a is chosen; 0 where it is dropped.
  SSD_HOST_DEVICE Ordered<T> after(Ordered<T> key, Vec4<T> a, T area_a, Vec4<T> b, T area_b) const {
    const T score = key_value<T>(key), rest = decay.after(score, a, area_a, b, area_b, overlap);
    if (rest == score) return key;
    return dropped(rest) ? Ordered<T>(0) : ordered_key(rest);
  }
};

template <typename T>
inline SoftRule<T> rule_of(const SoftNmsSettings& settings) {
  return {suppress_rule_of<T>(settings), soft_decay_of<T>(settings),
          static_cast<T>(settings.score_threshold)};
}

}  // namespace ssd_cuda
