// What the CPU and the CUDA binding of the MultiBox loss share: the options and targets out of their tensors.
#pragma once

#include "common/torch/boxing.h"
#include "multibox_rule.h"

namespace ssd_cuda {

// The target tensors, dense, with the types the kernels read.
class TargetTensors {
 public:
  TargetTensors(const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
                const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
                const std::optional<Tensor>& variances)
      : codes_(dense(codes)),
        boxes_(dense(boxes)),
        labels_(dense_or_none(labels)),
        offsets_(dense_or_none(offsets)),
        priors_(dense_or_none(priors)),
        variances_(dense_or_none(variances)) {}

  // Without labels the targets are ready ones: codes holds the classes and boxes the box codes.
  template <typename T>
  Targets<T> get(const MultiBoxSettings& settings) const {
    const bool ready = !labels_.has_value();
    return {.codes = ready ? nullptr : in<int32_t>(codes_),
            .boxes = in<Vec4<T>>(boxes_),
            .labels = ready ? in<int64_t>(codes_) : in<int64_t>(labels_),
            .offsets = in<int32_t>(offsets_),
            .priors = in<Vec4<T>>(priors_),
            .variances = in<Vec4<T>>(variances_),
            .variance = vec4<T>(settings.variance),
            .num_boxes = boxes_.numel() / 4,
            .width = codes_.size(1),
            .own_priors = priors_.has_value() && priors_->dim() == 3,
            .format = box_format(settings.xyxy)};
  }

 private:
  static std::optional<Tensor> dense_or_none(const std::optional<Tensor>& t) {
    return t ? std::optional(dense(*t)) : std::nullopt;
  }
  Tensor codes_, boxes_;
  std::optional<Tensor> labels_, offsets_, priors_, variances_;
};

// [B, P, K] whose last or middle dimension is dense is read where it lies; anything else is copied.
inline Tensor readable(const Tensor& t) {
  return t.stride(2) == 1 || t.stride(1) == 1 ? t : packed(t);
}
// Whether the memory of [B, P, K] is [B, K, P]: the gradient is laid out the same way.
inline bool is_channels_first(const Tensor& t) { return t.stride(2) != 1 && t.stride(1) == 1; }

// Keys are stored as the signed integer of their width.
inline ScalarType key_dtype(ScalarType logits) {
  return logits == ScalarType::Double ? ScalarType::Long : ScalarType::Int;
}
inline ScalarType loss_dtype(ScalarType logits) {
  return logits == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace ssd_cuda
