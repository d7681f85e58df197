// The op of both bindings: options from the schema's arguments, outputs, dispatch. Run says how.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "detect_rule.h"

namespace ssd_cuda {

using DetectResults = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

inline void check_thresholds(const char* name, const Doubles& thresholds, int64_t classes) {
  const auto count = static_cast<int64_t>(thresholds.size());
  SSD_CHECK(count == 1 || count == classes, name, " must hold 1 number or one for each of ",
            classes, " classes, got ", count);
}

inline void check_detect(const Tensor& loc, const Tensor& conf, const Tensor& priors,
                         const std::optional<Tensor>& clip_sizes, const DetectSettings& settings) {
  check_floating("conf", conf);
  check_size("conf", conf, {kAnySize, kAnySize, kAnySize});
  const bool first = settings.channels_first;
  const int64_t images = conf.size(0), width = conf.size(first ? 2 : 1);
  const int64_t classes = conf.size(first ? 1 : 2);
  check_kind("loc", loc, conf.scalar_type(), conf);
  if (first) {
    check_size("loc", loc, {images, 4, width});
  } else {
    check_size("loc", loc, {images, width, 4});
  }
  check_priors("priors", priors, wide_dtype(conf.scalar_type()), images, width, conf);
  if (clip_sizes) {
    check_kind("clip_sizes", *clip_sizes, wide_dtype(conf.scalar_type()), conf);
    check_size("clip_sizes", *clip_sizes, {images, 2});
  }
  constexpr int64_t kMostScores = int64_t{1} << 32;
  SSD_CHECK(classes == 0 || width < (kMostScores + classes - 1) / classes,
            "conf must have fewer than 2^32 scores an image, got ", width, " x ", classes);
  SSD_CHECK(0 <= settings.first_label && settings.first_label <= settings.last_label,
            "first_label must lie in [0, last_label], got ", settings.first_label, " and ",
            settings.last_label);
  SSD_CHECK(
      settings.last_label <= (classes > settings.first_label ? classes : settings.first_label),
      "last_label must be at most the number of classes, ", classes, ", got ", settings.last_label);
  check_thresholds("score_threshold", settings.score_threshold, classes);
  check_thresholds("iou_threshold", settings.iou_threshold, classes);
  SSD_CHECK(!settings.class_agnostic || settings.iou_threshold.size() == 1,
            "iou_threshold must be one number when class_agnostic, got ",
            settings.iou_threshold.size());
  SSD_CHECK(
      !settings.class_agnostic || settings.soft_sigma <= 0 || settings.score_threshold.size() == 1,
      "score_threshold must be one number for soft-NMS when class_agnostic, got ",
      settings.score_threshold.size());
  SSD_CHECK(settings.top_k >= 1, "top_k must be at least 1, got ", settings.top_k);
  SSD_CHECK(settings.rows >= 0, "rows must be at least 0, got ", settings.rows);
}

// loc: [B, P, 4], conf: [B, P, C] ([B, 4, P], [B, C, P] when channels_first), priors: [P, 4] or [B, P, 4],
// clip_sizes: [B, 2] or none.
// Run::run<T, S>(options, inputs, outputs, conf) computes; options.classes lies in the memory of the host.
template <typename Run>
DetectResults detect_op(const Tensor& loc, const Tensor& conf, const Tensor& priors,
                        const std::optional<Tensor>& clip_sizes, const DetectSettings& settings) {
  check_detect(loc, conf, priors, clip_sizes, settings);
  const int64_t images = conf.size(0), p = settings.channels_first ? 2 : 1, c = 3 - p;
  const Tensor prior = dense(priors);
  const auto clip_rows = dense_or_none(clip_sizes);
  const ScalarType wide =
      conf.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  DetectResults results{empty_on(conf, {images, settings.rows, 4}, wide),
                        empty_on(conf, {images, settings.rows}, wide),
                        empty_on(conf, {images, settings.rows}, ScalarType::Long),
                        empty_on(conf, {images, settings.rows}, ScalarType::Long),
                        empty_on(conf, {images}, ScalarType::Long)};
  // By name: clang captures structured bindings from version 16 on.
  Tensor &boxes = std::get<0>(results), &kept_scores = std::get<1>(results);
  Tensor &labels = std::get<2>(results), &prior_indices = std::get<3>(results);
  Tensor& counts = std::get<4>(results);
  dispatch_floating(conf.scalar_type(), "detect", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const auto rules = class_rules<T>(settings, conf.size(c));
    const DetectOptions<T> options = detect_options<T>(settings, conf.size(c), rules);
    const DetectInputs<T, S> inputs{
        .loc = {in<S>(loc), loc.stride(0), loc.stride(p), loc.stride(c)},
        .conf = {in<S>(conf), conf.stride(0), conf.stride(p), conf.stride(c)},
        .priors = in<Vec4<T>>(prior),
        .prior_image_rows = prior.dim() == 3 ? prior.size(1) : 0,
        .clip_sizes = in<T>(clip_rows),
        .images = images,
        .num_priors = conf.size(p),
        .num_classes = conf.size(c)};
    const DetectOutputs<T> outputs{.boxes = out<Vec4<T>>(boxes),
                                   .scores = out<T>(kept_scores),
                                   .labels = out<int64_t>(labels),
                                   .prior_indices = out<int64_t>(prior_indices),
                                   .counts = out<int64_t>(counts)};
    if (images > 0) Run::template run<T, S>(options, inputs, outputs, conf);
  });
  return results;
}

}  // namespace ssd_cuda
