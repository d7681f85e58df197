// Weighted boxes fusion (Solovyev et al. 2021): the options, and what they make of one box and of one cluster.
//
// Per image and label the boxes of all models come by (score times the weight of the model, descending; index ascending).
// Each joins the cluster whose fused box it overlaps most, if by more than the threshold, the earlier one on ties; else it
// begins one. A fused box is the mean of its boxes by their weighted scores.
#pragma once

#include "common/math/nms_math.h"
#include "common/options.h"

namespace ssd_cuda {

enum class FusedScore : int { kAvg = 0, kMax = 1, kBoxAndModel = 2, kAbsentModel = 3 };
template <>
struct Choice<FusedScore> {
  static constexpr std::array<const char*, 4> kWords{"avg", "max", "box_and_model_avg",
                                                     "absent_model_aware_avg"};
};

#define SSD_FUSION_OPTIONS(X)                                           \
  X(Doubles, weights) /* of each model, whose boxes lie side by side */ \
  X(double, iou_thr)                                                    \
  X(double, skip_box_thr)                                               \
  X(FusedScore, conf_type)                                              \
  X(bool, allows_overflow)                                              \
  X(Numbers<2>, clip_size) /* width, height; 0: not clipped */          \
  X(OpenInt, max_output)   /* rows an image */

SSD_OPTION_STRUCT(FusionSettings, SSD_FUSION_OPTIONS);

// One cluster: sums over its boxes, in the order in which they came.
template <typename T>
struct FusedCluster {
  Vec4<T> sum;  // of score times box
  Vec4<T> box;  // fused
  T score, weight, best;
  int32_t boxes, first;  // first: the index of the box that began it

  // score: weighted
  static SSD_HOST_DEVICE FusedCluster of(Vec4<T> own, T score, T weight, int32_t index) {
    return {scaled(own, score), own, score, weight, score, 1, index};
  }
  SSD_HOST_DEVICE void add(Vec4<T> own, T own_score, T own_weight) {
    score = add_rn(score, own_score);
    add_side(sum.x, box.x, own.x, own_score);
    add_side(sum.y, box.y, own.y, own_score);
    add_side(sum.z, box.z, own.z, own_score);
    add_side(sum.w, box.w, own.w, own_score);
    weight = add_rn(weight, own_weight);
    best = own_score > best ? own_score : best;
    ++boxes;
  }

 private:
  // One side at a time: all four at once take local memory on sm_100. score: with that of the box.
  SSD_HOST_DEVICE void add_side(T& total, T& fused, T own, T own_score) const {
    total = add_rn(total, mul_rn(own, own_score));
    if (score > T(0)) fused = div_rn(total, score);  // scores of 0 leave the box as it is
  }
  static SSD_HOST_DEVICE Vec4<T> scaled(Vec4<T> b, T by) {
    return {mul_rn(b.x, by), mul_rn(b.y, by), mul_rn(b.z, by), mul_rn(b.w, by)};
  }
};

template <typename T>
struct FusionRule {
  T threshold, skip;
  FusedScore kind;
  bool overflow;
  T clip_width, clip_height;  // 0: not clipped
  int64_t models, each;       // boxes of a model
  T total, largest;           // of the weights

  // The box as it takes part; false where it does not. A NaN score is below every threshold.
  SSD_HOST_DEVICE bool takes(Vec4<T>& box, T score) const {
    if (!(score >= skip)) return false;
    if (box.z < box.x) swap(box.x, box.z);
    if (box.w < box.y) swap(box.y, box.w);
    if (clip_width > T(0)) box = clip_box(box, clip_width, clip_height);
    return is_valid_box(box);
  }
  // Whether models, not only boxes, count: present is asked for then.
  SSD_HOST_DEVICE bool asks_models() const {
    return kind == FusedScore::kBoxAndModel || kind == FusedScore::kAbsentModel;
  }
  // present: the sum of the weights of the models that have a box in the cluster.
  SSD_HOST_DEVICE T score_of(const FusedCluster<T>& cluster, T present) const {
    if (kind == FusedScore::kMax) return div_rn(cluster.best, largest);
    if (kind == FusedScore::kBoxAndModel) {
      return div_rn(mul_rn(div_rn(cluster.score, cluster.weight), present), total);
    }
    if (kind == FusedScore::kAbsentModel) {
      return div_rn(cluster.score, add_rn(cluster.weight, sub_rn(total, present)));
    }
    if (overflow || cluster.boxes <= models) return div_rn(cluster.score, total);
    const T mean = div_rn(cluster.score, static_cast<T>(cluster.boxes));
    return div_rn(mul_rn(mean, static_cast<T>(models)), total);
  }

 private:
  static SSD_HOST_DEVICE void swap(T& a, T& b) {
    const T kept = a;
    a = b;
    b = kept;
  }
};

template <typename T>
inline FusionRule<T> fusion_rule(const FusionSettings& settings, int64_t boxes) {
  const auto models = static_cast<int64_t>(settings.weights.size());
  T total = 0, largest = 0;
  for (const double weight : settings.weights) {
    total += static_cast<T>(weight);
    largest = static_cast<T>(weight) > largest ? static_cast<T>(weight) : largest;
  }
  return {.threshold = suppress_rule<T>(settings.iou_thr, false).threshold,
          .skip = static_cast<T>(settings.skip_box_thr),
          .kind = settings.conf_type,
          .overflow = settings.allows_overflow,
          .clip_width = static_cast<T>(settings.clip_size[0]),
          .clip_height = static_cast<T>(settings.clip_size[1]),
          .models = models,
          .each = boxes / models,
          .total = total,
          .largest = largest};
}

template <typename T>
struct FusionInputs {
  const Vec4<T>* boxes;   // [B, N], a model after the other
  const T* scores;        // [B, N]
  const int64_t* labels;  // [B, N]
  const bool* real;       // [B, N] or null: all
  const T* weights;       // [models]
  int64_t images, n;
};

template <typename T>
struct FusionOutputs {
  Vec4<T>* boxes;     // [B, rows]
  T* scores;          // [B, rows]
  int64_t* labels;    // [B, rows], -1 past the count
  int64_t* counts;    // [B]
  int64_t* clusters;  // [B, N] the row of each box, -1: none
  int64_t rows;
};

}  // namespace ssd_cuda
