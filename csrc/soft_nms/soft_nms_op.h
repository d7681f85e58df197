// The ops of both bindings: checks, results, dispatch. Run says how.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "diou_nms_rule.h"
#include "matrix_nms_rule.h"
#include "nms/nms_op.h"
#include "soft_nms_rule.h"

namespace ssd_cuda {

inline void check_score_threshold(double threshold) {
  SSD_CHECK(threshold >= 0, "score_threshold must be at least 0, got ", threshold);
}
inline void check_settings(const SoftNmsSettings& settings) {
  SSD_CHECK(settings.soft_sigma > 0, "soft_sigma must be above 0, got ", settings.soft_sigma);
  check_score_threshold(settings.score_threshold);
}
inline void check_settings(const MatrixNmsSettings& settings) {
  SSD_CHECK(settings.sigma > 0, "sigma must be above 0, got ", settings.sigma);
  check_score_threshold(settings.score_threshold);
}
inline void check_settings(const DiouNmsSettings&) {}

template <typename T>
struct ScoredBoxes {
  const Vec4<T>* boxes;  // [N]
  const T* scores;       // [N]
  const int64_t* idxs;   // [N] or null: one class
  int64_t n;
};
template <typename T>
struct KeptRows {
  int64_t* keep;  // [rows], -1 past the count
  T* scores;      // [rows], 0 past the count
  int64_t* count;
  int64_t rows;
};

// boxes: [N, 4], scores: [N], both float32 or both float64; idxs: int64 [N] or none
// -> int64 [max_output], scores [max_output], int64 []
// Run::run<T>(scored boxes, rule, kept rows, where)
template <typename Run, typename Settings>
std::tuple<Tensor, Tensor, Tensor> scored_boxes_op(const Tensor& boxes_in, const Tensor& scores_in,
                                                   const std::optional<Tensor>& idxs_in,
                                                   const Settings& settings) {
  check_real("boxes", boxes_in);
  check_kind("scores", scores_in, boxes_in.scalar_type(), boxes_in);
  check_nms(boxes_in, scores_in, idxs_in, settings.max_output);
  check_settings(settings);
  const Tensor boxes = dense(boxes_in), scores = dense(scores_in);
  const auto idxs = dense_or_none(idxs_in);
  const int64_t rows = settings.max_output;
  const Tensor keep = empty_on(boxes, {rows}, ScalarType::Long);
  const Tensor kept_scores = empty_on(boxes, {rows}, boxes.scalar_type());
  const Tensor count = empty_on(boxes, {}, ScalarType::Long);
  dispatch_real(boxes.scalar_type(), "soft_nms", [&](auto zero) {
    using T = decltype(zero);
    Run::run(ScoredBoxes<T>{in<Vec4<T>>(boxes), in<T>(scores), in<int64_t>(idxs), boxes.size(0)},
             rule_of<T>(settings),
             KeptRows<T>{out<int64_t>(keep), out<T>(kept_scores), out<int64_t>(count), rows},
             boxes);
  });
  return {keep, kept_scores, count};
}

template <typename Run, typename Library>
void implement_soft_nms(Library& m) {
  m.impl("soft_nms", SSD_BOX((&scored_boxes_op<Run, SoftNmsSettings>)));
  m.impl("diou_nms", SSD_BOX((&scored_boxes_op<Run, DiouNmsSettings>)));
  m.impl("matrix_nms", SSD_BOX((&scored_boxes_op<Run, MatrixNmsSettings>)));
}

}  // namespace ssd_cuda
