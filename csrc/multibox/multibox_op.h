// The ops of the MultiBox loss for both devices: what they demand, their tensors, dispatch. A device says how, in a struct
// Run.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "matching/matching_op.h"
#include "multibox_rule.h"

namespace ssd_cuda {

// [B, P, K] whose last or middle dimension is dense is read where it lies; anything else is copied.
inline Tensor readable(const Tensor& t) {
  return t.stride(2) == 1 || t.stride(1) == 1 ? t : packed(t);
}
// Whether the memory of [B, P, K] is [B, K, P]: the gradient is laid out the same way.
inline bool is_channels_first(const Tensor& t) { return t.stride(2) != 1 && t.stride(1) == 1; }

// What the kernels of the losses count in 32 bits. conf: [B, P, C].
inline void check_fits_card(const Tensor& conf) {
  SSD_CHECK(conf.size(0) * conf.size(1) < (int64_t{1} << 31) && conf.size(2) < (1 << 24),
            "conf must have fewer than 2^31 priors in the batch and 2^24 classes, got ",
            size_text(conf.sizes()));
}

// Keys are stored as the signed integer of their width.
inline ScalarType key_dtype(ScalarType logits) {
  return logits == ScalarType::Double ? ScalarType::Long : ScalarType::Int;
}

// What the ops demand of the classes: weights [C] or none.
inline void check_class_terms(const Tensor& conf, const std::optional<Tensor>& class_weights,
                              double label_smoothing) {
  check_tensor("class_weights", class_weights, wide_dtype(conf.scalar_type()), {conf.size(2)},
               conf);
  SSD_CHECK(label_smoothing >= 0 && label_smoothing < 1, "label_smoothing must lie in [0, 1), got ",
            label_smoothing);
}

// What the ops demand of the localisation loss.
inline void check_loc_loss(LocLoss loss, const std::optional<Tensor>& labels) {
  SSD_CHECK(labels || !is_box_loss(loss),
            "loc_loss must be smooth_l1 or l1 without labels, got a loss of boxes");
}

// What both ops demand of the batch. Without labels the targets are ready ones: codes [B, P] int64 classes, boxes [B, P, 4].
inline void check_batch(const Tensor& loc, const Tensor& conf, const Tensor& codes,
                        const Tensor& boxes, const std::optional<Tensor>& labels,
                        const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
                        const std::optional<Tensor>& variances) {
  check_floating("conf", conf);
  check_size("conf", conf, {kAnySize, kAnySize, kAnySize});
  const int64_t images = conf.size(0), width = conf.size(1);
  SSD_CHECK(conf.size(2) >= 1, "conf must have at least one class, got none");
  check_tensor("loc", loc, conf.scalar_type(), {images, width, 4}, conf);
  const ScalarType wide = wide_dtype(conf.scalar_type());
  if (!labels) {
    SSD_CHECK(!offsets && !priors && !variances,
              "offsets, priors and variances must be None without labels");
    check_tensor("codes", codes, ScalarType::Long, {images, width}, conf);
    check_tensor("boxes", boxes, wide, {images, width, 4}, conf);
    return;
  }
  SSD_CHECK(offsets && priors, "offsets and priors must be given with labels, got None");
  check_tensor("codes", codes, ScalarType::Int, {images, width}, conf);
  check_tensor("boxes", boxes, wide, {kAnySize, 4}, conf);
  check_tensor("labels", labels, ScalarType::Long, {boxes.size(0)}, conf);
  check_tensor("offsets", offsets, ScalarType::Int, {images + 1}, conf);
  check_priors("priors", *priors, wide, images, width, conf);
  if (variances) {
    check_priors("variances", *variances, wide, images, width, conf);
    SSD_CHECK(variances->dim() == priors->dim(), "variances must have the shape of priors, ",
              size_text(priors->sizes()), ", got ", size_text(variances->sizes()));
  }
}

// What the backward demands beside it.
inline void check_selection(const Tensor& conf, const Tensor& grad_loc, const Tensor& grad_conf,
                            const Tensor& keys, const Tensor& cuts, const Tensor& scales) {
  const ScalarType dtype = conf.scalar_type(), wide = wide_dtype(dtype);
  const int64_t images = conf.size(0), width = conf.size(1);
  check_tensor("grad_loc", grad_loc, wide, {}, conf);
  check_tensor("grad_conf", grad_conf, wide, {}, conf);
  check_tensor("keys", keys, key_dtype(dtype), {images, width}, conf);
  check_tensor("cuts", cuts, ScalarType::Long, {images, 2}, conf);
  check_tensor("scales", scales, wide, {images}, conf);
}

// The target tensors, dense, with the types the kernels read.
class TargetTensors {
 public:
  TargetTensors(const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
                const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
                const std::optional<Tensor>& variances, const std::optional<Tensor>& class_weights)
      : codes_(dense(codes)),
        boxes_(dense(boxes)),
        labels_(dense_or_none(labels)),
        offsets_(dense_or_none(offsets)),
        priors_(dense_or_none(priors)),
        variances_(dense_or_none(variances)),
        class_weights_(dense_or_none(class_weights)) {}

  // Without labels the targets are ready ones: codes holds the classes and boxes the box codes.
  template <typename T, typename Settings>
  Targets<T> get(const Settings& settings, int64_t num_classes) const {
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
            .format = box_format(settings.xyxy),
            .terms = class_terms(in<T>(class_weights_), settings, num_classes)};
  }

 private:
  Tensor codes_, boxes_;
  std::optional<Tensor> labels_, offsets_, priors_, variances_, class_weights_;
};

// A tensor of the shape of `like`, of which it has the order in memory; make(like, size) gives it.
template <typename Make>
Tensor rows_like(const Tensor& like, const Make& make) {
  const bool first = is_channels_first(like);
  const Tensor rows =
      make(like, {like.size(0), like.size(first ? 2 : 1), like.size(first ? 1 : 2)});
  return first ? swap_last(rows) : rows;
}

// localization [], classification [], num_positives [], keys [B, P], cuts [B, 2], scales [B], zeros: where asked for
// [B, P, C] laid out as conf, for multibox_loss_backward_into, else [0].
using ForwardTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Of a batch that is in order. forward(S{}, loc, conf, targets, rule, outputs, zeros) fills them;
// Run::zeros_of_forward<S>(like, size) allocates what it fills with zeros
template <typename Run, typename Settings, typename Forward>
ForwardTensors loss_forward(const Tensor& loc_in, const Tensor& conf_in,
                            const TargetTensors& targets, const Settings& settings,
                            const Forward& forward) {
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const int64_t images = conf.size(0), width = conf.size(1);
  const ScalarType wide = wide_dtype(conf.scalar_type());
  const Tensor localization = empty_on(conf, {}, wide), classification = empty_on(conf, {}, wide);
  const Tensor num_positives = empty_on(conf, {}, ScalarType::Long);
  const Tensor keys = empty_on(conf, {images, width}, key_dtype(conf.scalar_type()));
  const Tensor cuts = empty_on(conf, {images, 2}, ScalarType::Long);
  const Tensor scales = empty_on(conf, {images}, wide);
  std::optional<Tensor> zeros;
  dispatch_floating(conf.scalar_type(), "multibox_loss", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    if (settings.with_zeros) zeros = rows_like(conf, &Run::template zeros_of_forward<S>);
    const LossOutputs<T> outputs{.localization = out<T>(localization),
                                 .classification = out<T>(classification),
                                 .num_positives = out<int64_t>(num_positives),
                                 .keys = out<Ordered<T>>(keys),
                                 .cuts = out<int64_t>(cuts),
                                 .scales = out<T>(scales)};
    forward(zero, loc, conf, targets.get<T>(settings, conf.size(2)),
            multibox_rule(settings, conf.size(2)), outputs, zeros);
  });
  if (!zeros) zeros = empty_on(conf, {0}, conf.scalar_type());
  return {localization, classification, num_positives, keys, cuts, scales, *zeros};
}

// loc: [B, P, 4], conf: [B, P, C], codes: [B, P], boxes: [G, 4] (ready targets: [B, P, 4], and no labels).
// Run::forward<S>(loc, conf, targets, rule, outputs, zeros)
template <typename Run>
ForwardTensors multibox_loss(const Tensor& loc_in, const Tensor& conf_in, const Tensor& codes,
                             const Tensor& boxes, const std::optional<Tensor>& labels,
                             const std::optional<Tensor>& offsets,
                             const std::optional<Tensor>& priors,
                             const std::optional<Tensor>& variances,
                             const std::optional<Tensor>& class_weights,
                             const MultiBoxForwardSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  check_class_terms(conf_in, class_weights, settings.label_smoothing);
  check_loc_loss(settings.loc_loss, labels);
  Run::check(conf_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances, class_weights);
  return loss_forward<Run>(loc_in, conf_in, targets, settings, [](auto zero, const auto&... batch) {
    Run::template forward<decltype(zero)>(batch...);
  });
}

// Matches and computes the loss of what it found: match() and multibox_loss(), bit for bit, in one call, so that a card can
// do the one beside the other. -> as multibox_loss(), then codes [B, P].
// Run::match_and_forward<S>(problem, loc, conf, targets, rule, outputs, zeros), of at least one prior
template <typename Run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> multibox_match_loss(
    const Tensor& loc_in, const Tensor& conf_in, const Tensor& boxes_in, const Tensor& labels,
    const Tensor& offsets_in, const Tensor& priors_in, const std::optional<Tensor>& variances,
    const std::optional<Tensor>& class_weights, const MatchLossSettings& settings) {
  check_floating("conf", conf_in);
  check_size("conf", conf_in, {kAnySize, kAnySize, kAnySize});
  const Tensor codes = empty_on(conf_in, {conf_in.size(0), conf_in.size(1)}, ScalarType::Int);
  check_batch(loc_in, conf_in, codes, boxes_in, labels, offsets_in, priors_in, variances);
  check_class_terms(conf_in, class_weights, settings.label_smoothing);
  check_match(boxes_in, offsets_in, priors_in);
  Run::check(conf_in);
  const Tensor boxes = dense(boxes_in), offsets = dense(offsets_in), priors = dense(priors_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances, class_weights);
  const auto forward = [&](auto zero, const auto&... batch) {
    using S = decltype(zero);
    if (codes.numel() == 0) return Run::template forward<S>(batch...);
    Run::template match_and_forward<S>(
        match_problem<acc_t<S>>(boxes, offsets, priors, settings, codes), batch...);
  };
  auto found = loss_forward<Run>(loc_in, conf_in, targets, settings, forward);
  return std::tuple_cat(std::move(found), std::tuple(codes));
}

// Arguments of the backward that are in order.
struct BackwardInputs {
  Tensor grad_loc, grad_conf, loc, conf;
  TargetTensors targets;
  Tensor keys, cuts, scales;

  template <typename Run>
  static BackwardInputs checked(const Tensor& grad_loc, const Tensor& grad_conf, const Tensor& loc,
                                const Tensor& conf, const Tensor& codes, const Tensor& boxes,
                                const std::optional<Tensor>& labels,
                                const std::optional<Tensor>& offsets,
                                const std::optional<Tensor>& priors,
                                const std::optional<Tensor>& variances,
                                const std::optional<Tensor>& class_weights, const Tensor& keys,
                                const Tensor& cuts, const Tensor& scales,
                                const MultiBoxSettings& settings) {
    check_batch(loc, conf, codes, boxes, labels, offsets, priors, variances);
    check_class_terms(conf, class_weights, settings.label_smoothing);
    check_loc_loss(settings.loc_loss, labels);
    check_selection(conf, grad_loc, grad_conf, keys, cuts, scales);
    Run::check(conf);
    return {grad_loc,
            grad_conf,
            readable(loc),
            readable(conf),
            {codes, boxes, labels, offsets, priors, variances, class_weights},
            dense(keys),
            dense(cuts),
            dense(scales)};
  }

  // d_loc, with the rows of d_conf that count written. Run::backward<S>(loc, conf, targets, rule, selection, d_loc,
  // d_conf); Run::loc_gradient<S>(like, size) allocates d_loc
  template <typename Run, typename S>
  Tensor run(const Tensor& d_conf, const MultiBoxSettings& settings) const {
    using T = acc_t<S>;
    const Tensor d_loc = rows_like(loc, &Run::template loc_gradient<S>);
    const LossSelection<T> selection{.keys = in<Ordered<T>>(keys),
                                     .cuts = in<int64_t>(cuts),
                                     .scales = in<T>(scales),
                                     .grad_loc = in<T>(grad_loc),
                                     .grad_conf = in<T>(grad_conf)};
    Run::template backward<S>(loc, conf, targets.get<T>(settings, conf.size(2)),
                              multibox_rule(settings, conf.size(2)), selection, d_loc, d_conf);
    return d_loc;
  }
};

// -> d_loc [B, P, 4], d_conf [B, P, C], each laid out as loc and conf. Run::zeros<S>(like, size) allocates d_conf
template <typename Run>
std::tuple<Tensor, Tensor> multibox_loss_backward(
    const Tensor& grad_loc, const Tensor& grad_conf, const Tensor& loc, const Tensor& conf,
    const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
    const std::optional<Tensor>& variances, const std::optional<Tensor>& class_weights,
    const Tensor& keys, const Tensor& cuts, const Tensor& scales,
    const MultiBoxSettings& settings) {
  const auto inputs =
      BackwardInputs::checked<Run>(grad_loc, grad_conf, loc, conf, codes, boxes, labels, offsets,
                                   priors, variances, class_weights, keys, cuts, scales, settings);
  Tensor d_loc, d_conf;
  dispatch_floating(conf.scalar_type(), "multibox_loss_backward", [&](auto zero) {
    using S = decltype(zero);
    d_conf = rows_like(inputs.conf, &Run::template zeros<S>);
    d_loc = inputs.template run<Run, S>(d_conf, settings);
  });
  return {d_loc, d_conf};
}

// The same, d_conf written into the zeros of the forward -> d_loc
template <typename Run>
Tensor multibox_loss_backward_into(const Tensor& grad_loc, const Tensor& grad_conf,
                                   const Tensor& loc, const Tensor& conf, const Tensor& codes,
                                   const Tensor& boxes, const std::optional<Tensor>& labels,
                                   const std::optional<Tensor>& offsets,
                                   const std::optional<Tensor>& priors,
                                   const std::optional<Tensor>& variances,
                                   const std::optional<Tensor>& class_weights, const Tensor& keys,
                                   const Tensor& cuts, const Tensor& scales, const Tensor& d_conf,
                                   const MultiBoxSettings& settings) {
  const auto inputs =
      BackwardInputs::checked<Run>(grad_loc, grad_conf, loc, conf, codes, boxes, labels, offsets,
                                   priors, variances, class_weights, keys, cuts, scales, settings);
  check_tensor("d_conf", d_conf, conf.scalar_type(), {conf.size(0), conf.size(1), conf.size(2)},
               conf);
  Tensor d_loc;
  dispatch_floating(conf.scalar_type(), "multibox_loss_backward_into", [&](auto zero) {
    d_loc = inputs.template run<Run, decltype(zero)>(d_conf, settings);
  });
  return d_loc;
}

template <typename Run, typename Library>
void implement_multibox(Library& m) {
  m.impl("multibox_loss", SSD_BOX(&multibox_loss<Run>));
  m.impl("multibox_match_loss", SSD_BOX(&multibox_match_loss<Run>));
  m.impl("multibox_loss_backward", SSD_BOX(&multibox_loss_backward<Run>));
  m.impl("multibox_loss_backward_into", SSD_BOX(&multibox_loss_backward_into<Run>));
}

}  // namespace ssd_cuda
