// The ops of the focal loss for both devices: what they demand, their tensors, dispatch. A device says how, in a struct Run.
#pragma once

#include "focal_rule.h"
#include "multibox/multibox_op.h"

namespace ssd_cuda {

template <typename Settings>
void check_focal(const Settings& settings) {
  SSD_CHECK(settings.gamma >= 0, "gamma must be at least 0, got ", settings.gamma);
  SSD_CHECK(settings.form != FocalForm::kSoftmax || settings.background != FocalBackground::kNone,
            "background must be first or last in the softmax form, got none");
}

struct Gradients {
  Tensor loc, conf;
};

// As multibox_loss, without a selection -> localization [], classification [], num_positives [], columns [B, P],
// stats [3, B, P] ([0] in the sigmoid form), scales [B], d_loc, d_conf: where asked for laid out as loc and conf, else [0].
// Run::forward<S>(loc, conf, targets, rule, outputs, gradients); Run::kWithGradients<S>: whether it can give them
template <typename Run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> focal_loss(
    const Tensor& loc_in, const Tensor& conf_in, const Tensor& codes, const Tensor& boxes,
    const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& priors, const std::optional<Tensor>& variances,
    const FocalForwardSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  check_focal(settings);
  Run::check(conf_in);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances, std::nullopt);
  const int64_t images = conf.size(0), width = conf.size(1);
  const ScalarType wide = wide_dtype(conf.scalar_type());
  const bool softmax = settings.form == FocalForm::kSoftmax;
  const Tensor localization = empty_on(conf, {}, wide), classification = empty_on(conf, {}, wide);
  const Tensor num_positives = empty_on(conf, {}, ScalarType::Long);
  const Tensor columns = empty_on(conf, {images, width}, ScalarType::Int);
  const Tensor stats =
      softmax ? empty_on(conf, {3, images, width}, wide) : empty_on(conf, {0}, wide);
  const Tensor scales = empty_on(conf, {images}, wide);
  Gradients gradients{empty_on(conf, {0}, conf.scalar_type()),
                      empty_on(conf, {0}, conf.scalar_type())};
  dispatch_floating(conf.scalar_type(), "focal_loss", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    if (settings.with_gradients) {
      SSD_CHECK(Run::template kWithGradients<S>,
                "with_gradients must be False but for float32 on the CPU, got True");
      gradients = {rows_like(loc, &Run::template loc_gradient<S>),
                   rows_like(conf, &Run::template gradient<S>)};
    }
    const FocalOutputs<T> outputs{.localization = out<T>(localization),
                                  .classification = out<T>(classification),
                                  .num_positives = out<int64_t>(num_positives),
                                  .columns = out<int32_t>(columns),
                                  .stats = out<T>(stats),
                                  .scales = out<T>(scales)};
    Run::template forward<S>(loc, conf, targets.get<T>(settings, conf.size(2)),
                             focal_rule<T>(settings, conf.size(2)), outputs,
                             settings.with_gradients ? &gradients : nullptr);
  });
  return {localization, classification, num_positives, columns,
          stats,        scales,         gradients.loc, gradients.conf};
}

inline void check_focal_saved(const Tensor& conf, const Tensor& grad_loc, const Tensor& grad_conf,
                              const Tensor& columns, const Tensor& stats, const Tensor& scales,
                              const FocalSettings& settings) {
  const ScalarType wide = wide_dtype(conf.scalar_type());
  const int64_t images = conf.size(0), width = conf.size(1);
  check_tensor("grad_loc", grad_loc, wide, {}, conf);
  check_tensor("grad_conf", grad_conf, wide, {}, conf);
  check_tensor("columns", columns, ScalarType::Int, {images, width}, conf);
  if (settings.form == FocalForm::kSoftmax) {
    check_tensor("stats", stats, wide, {3, images, width}, conf);
  }
  check_tensor("scales", scales, wide, {images}, conf);
}

// -> d_loc [B, P, 4], d_conf [B, P, C], each laid out as loc and conf. Run::backward<S>(loc, conf, targets, rule, saved,
// d_loc, d_conf); Run::gradient<S>(like, size) allocates d_conf, Run::loc_gradient<S> d_loc
template <typename Run>
std::tuple<Tensor, Tensor> focal_loss_backward(
    const Tensor& grad_loc, const Tensor& grad_conf, const Tensor& loc_in, const Tensor& conf_in,
    const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
    const std::optional<Tensor>& variances, const Tensor& columns, const Tensor& stats,
    const Tensor& scales, const FocalSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  check_focal(settings);
  check_focal_saved(conf_in, grad_loc, grad_conf, columns, stats, scales, settings);
  Run::check(conf_in);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances, std::nullopt);
  const Tensor own_columns = dense(columns), own_stats = dense(stats), own_scales = dense(scales);
  Tensor d_loc, d_conf;
  dispatch_floating(conf.scalar_type(), "focal_loss_backward", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    d_loc = rows_like(loc, &Run::template loc_gradient<S>);
    d_conf = rows_like(conf, &Run::template gradient<S>);
    const FocalSaved<T> saved{.columns = in<int32_t>(own_columns),
                              .stats = in<T>(own_stats),
                              .scales = in<T>(own_scales),
                              .grad_loc = in<T>(grad_loc),
                              .grad_conf = in<T>(grad_conf)};
    Run::template backward<S>(loc, conf, targets.get<T>(settings, conf.size(2)),
                              focal_rule<T>(settings, conf.size(2)), saved, d_loc, d_conf);
  });
  return {d_loc, d_conf};
}

template <typename Run, typename Library>
void implement_focal(Library& m) {
  m.impl("focal_loss", SSD_BOX(&focal_loss<Run>));
  m.impl("focal_loss_backward", SSD_BOX(&focal_loss_backward<Run>));
}

}  // namespace ssd_cuda
