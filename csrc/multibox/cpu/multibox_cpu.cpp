// The fused MultiBox loss on the CPU; the schemas of the family.
#include "multibox/multibox_op.h"
#include "multibox_loss.h"

namespace ssd_cuda {
namespace {

template <typename S>
Logits<S> logits_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2), t.size(2)};
}

template <typename S>
Batch<S> batch_of(const Tensor& loc, const Tensor& conf, const TargetTensors& targets,
                  const MultiBoxSettings& settings) {
  return {.conf = logits_of<S>(conf),
          .loc = logits_of<S>(loc),
          .targets = targets.get<acc_t<S>>(settings),
          .rule = multibox_rule(settings, conf.size(2)),
          .images = conf.size(0),
          .width = conf.size(1)};
}

// loc: [B, P, 4], conf: [B, P, C], codes: [B, P], boxes: [G, 4] (ready targets: [B, P, 4], and no labels)
// -> localization [], classification [], num_positives [], keys [B, P], cuts [B, 2], scales [B].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> multibox_loss(
    const Tensor& loc_in, const Tensor& conf_in, const Tensor& codes, const Tensor& boxes,
    const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& priors, const std::optional<Tensor>& variances,
    const MultiBoxSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances);
  const int64_t images = conf.size(0), width = conf.size(1);
  const auto wide = wide_dtype(conf.scalar_type());
  Tensor localization = empty_on(conf, {}, wide), classification = empty_on(conf, {}, wide);
  Tensor num_positives = empty_on(conf, {}, ScalarType::Long);
  Tensor keys = empty_on(conf, {images, width}, key_dtype(conf.scalar_type()));
  Tensor cuts = empty_on(conf, {images, 2}, ScalarType::Long);
  Tensor scales = empty_on(conf, {images}, wide);
  dispatch_floating(conf.scalar_type(), "multibox_loss", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const auto batch = batch_of<S>(loc, conf, targets, settings);
    std::vector<ImageSums> sums(images);
    run_forward(batch, out<Ordered<T>>(keys), out<int64_t>(cuts), &sums);
    sum_images(batch, sums, out<T>(localization), out<T>(classification),
               out<int64_t>(num_positives), out<T>(scales));
  });
  return {localization, classification, num_positives, keys, cuts, scales};
}

// Zeros of the shape of t, [B, P, K], in the memory layout of t.
template <typename S>
Tensor zeros_like_rows(const Tensor& t) {
  const bool first = is_channels_first(t);
  const std::vector<int64_t> size = {t.size(0), t.size(first ? 2 : 1), t.size(first ? 1 : 2)};
  const Tensor zeros = zeros_for_rows(t, size, t.scalar_type(), sizeof(S));
  return first ? swap_last(zeros) : zeros;
}

std::tuple<Tensor, Tensor> multibox_loss_backward(
    const Tensor& grad_loc, const Tensor& grad_conf, const Tensor& loc_in, const Tensor& conf_in,
    const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
    const std::optional<Tensor>& variances, const Tensor& keys_in, const Tensor& cuts_in,
    const Tensor& scales_in, const MultiBoxSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  check_selection(conf_in, grad_loc, grad_conf, keys_in, cuts_in, scales_in);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const Tensor keys = dense(keys_in), cuts = dense(cuts_in), scales = dense(scales_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances);
  Tensor d_loc, d_conf;
  dispatch_floating(conf.scalar_type(), "multibox_loss_backward", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const auto batch = batch_of<S>(loc, conf, targets, settings);
    d_loc = zeros_like_rows<S>(loc);
    d_conf = zeros_like_rows<S>(conf);
    run_backward(batch, in<Ordered<T>>(keys), in<int64_t>(cuts), in<T>(scales), *in<T>(grad_loc),
                 *in<T>(grad_conf), logits_of<S>(d_loc), logits_of<S>(d_conf));
  });
  return {d_loc, d_conf};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  const std::string batch =
      "Tensor loc, Tensor conf, Tensor codes, Tensor boxes, Tensor? labels, Tensor? offsets, "
      "Tensor? priors, Tensor? variances";
  const std::string selection = "Tensor keys, Tensor cuts, Tensor scales";
  define_op<MultiBoxSettings>(
      m, "multibox_loss", batch,
      "(Tensor localization, Tensor classification, Tensor num_positives, " + selection + ")");
  define_op<MultiBoxSettings>(m, "multibox_loss_backward",
                              "Tensor grad_loc, Tensor grad_conf, " + batch + ", " + selection,
                              "(Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("multibox_loss", SSD_BOX(&multibox_loss));
  m.impl("multibox_loss_backward", SSD_BOX(&multibox_loss_backward));
}

}  // namespace ssd_cuda
