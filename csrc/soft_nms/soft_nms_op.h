// The op of both bindings: checks, results, dispatch. Run says how.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "nms/nms_op.h"
#include "soft_nms_rule.h"

namespace ssd_cuda {

// boxes: [N, 4], scores: [N], both float32 or both float64; idxs: int64 [N] or none.
inline void check_scored_boxes(const Tensor& boxes, const Tensor& scores,
                               const std::optional<Tensor>& idxs, int64_t max_output) {
  check_real("boxes", boxes);
  check_kind("scores", scores, boxes.scalar_type(), boxes);
  check_nms(boxes, scores, idxs, max_output);
}

inline void check_soft_nms(const SoftNmsSettings& settings) {
  SSD_CHECK(settings.soft_sigma > 0, "soft_sigma must be above 0, got ", settings.soft_sigma);
  SSD_CHECK(settings.score_threshold >= 0, "score_threshold must be at least 0, got ",
            settings.score_threshold);
}

// -> int64 [max_output] padded with -1, scores [max_output] padded with 0, int64 []
// Run::run<T>(boxes, scores, idxs, rule, keep, kept_scores, count)
template <typename Run>
std::tuple<Tensor, Tensor, Tensor> soft_nms_op(const Tensor& boxes_in, const Tensor& scores_in,
                                               const std::optional<Tensor>& idxs_in,
                                               const SoftNmsSettings& settings) {
  check_scored_boxes(boxes_in, scores_in, idxs_in, settings.max_output);
  check_soft_nms(settings);
  const Tensor boxes = dense(boxes_in), scores = dense(scores_in);
  const auto idxs = dense_or_none(idxs_in);
  const Tensor keep = empty_on(boxes, {settings.max_output}, ScalarType::Long);
  const Tensor kept_scores = empty_on(boxes, {settings.max_output}, boxes.scalar_type());
  const Tensor count = empty_on(boxes, {}, ScalarType::Long);
  dispatch_real(boxes.scalar_type(), "soft_nms", [&](auto zero) {
    using T = decltype(zero);
    Run::template run<T>(boxes, scores, idxs, soft_rule_of<T>(settings), keep, kept_scores, count);
  });
  return {keep, kept_scores, count};
}

}  // namespace ssd_cuda
