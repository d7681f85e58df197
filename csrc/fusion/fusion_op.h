// The op for both devices: checks, results, dispatch. A device says how, in a struct Run.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "fusion_rule.h"

namespace ssd_cuda {

inline void check_fusion(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                         const std::optional<Tensor>& real, const FusionSettings& settings) {
  check_real("boxes", boxes);
  check_size("boxes", boxes, {kAnySize, kAnySize, 4});
  const int64_t images = boxes.size(0), n = boxes.size(1);
  check_tensor("scores", scores, boxes.scalar_type(), {images, n}, boxes);
  check_tensor("labels", labels, ScalarType::Long, {images, n}, boxes);
  check_tensor("real", real, ScalarType::Bool, {images, n}, boxes);
  const auto models = static_cast<int64_t>(settings.weights.size());
  SSD_CHECK(models >= 1 && n % models == 0,
            "weights must hold a number for each model, of which all have as many of ", n,
            " boxes, got ", models);
  SSD_CHECK(images * n < (int64_t{1} << 31) - 1, "boxes must hold fewer than 2^31 - 1 boxes, got ",
            images, " x ", n);
  SSD_CHECK(settings.max_output >= 0, "max_output must be at least 0, got ", settings.max_output);
}

// boxes: [B, N, 4], scores: [B, N], labels: int64 [B, N], real: bool [B, N] or none
// -> boxes [B, K, 4], scores [B, K], labels [B, K], counts [B], clusters [B, N]
// Run::run<T>(rule, weights, inputs, outputs, where): weights [models] on the host
template <typename Run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fusion_op(const Tensor& boxes_in,
                                                             const Tensor& scores_in,
                                                             const Tensor& labels_in,
                                                             const std::optional<Tensor>& real_in,
                                                             const FusionSettings& settings) {
  check_fusion(boxes_in, scores_in, labels_in, real_in, settings);
  const Tensor boxes = dense(boxes_in), scores = dense(scores_in), labels = dense(labels_in);
  const auto real = dense_or_none(real_in);
  const int64_t images = boxes.size(0), n = boxes.size(1), rows = settings.max_output;
  const ScalarType dtype = boxes.scalar_type();
  const Tensor fused = empty_on(boxes, {images, rows, 4}, dtype);
  const Tensor fused_scores = empty_on(boxes, {images, rows}, dtype);
  const Tensor fused_labels = empty_on(boxes, {images, rows}, ScalarType::Long);
  const Tensor counts = empty_on(boxes, {images}, ScalarType::Long);
  const Tensor clusters = empty_on(boxes, {images, n}, ScalarType::Long);
  dispatch_real(dtype, "weighted_boxes_fusion", [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> weights(settings.weights.begin(), settings.weights.end());
    const FusionInputs<T> inputs{
        in<Vec4<T>>(boxes), in<T>(scores), in<int64_t>(labels), in<bool>(real), nullptr, images, n};
    const FusionOutputs<T> outputs{out<Vec4<T>>(fused),        out<T>(fused_scores),
                                   out<int64_t>(fused_labels), out<int64_t>(counts),
                                   out<int64_t>(clusters),     rows};
    if (images > 0) Run::run(fusion_rule<T>(settings, n), weights, inputs, outputs, boxes);
  });
  return {fused, fused_scores, fused_labels, counts, clusters};
}

}  // namespace ssd_cuda
