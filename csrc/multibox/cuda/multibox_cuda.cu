// Bindings of the MultiBox loss for CUDA tensors.
#include "multibox.cuh"
#include "multibox/multibox_op.h"

namespace ssd_cuda {
namespace {

template <typename S>
RowsView<const S> rows_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2)};
}
template <typename S>
RowsView<S> rows_to(const Tensor& t) {
  return {out<S>(t), t.stride(0), t.stride(1), t.stride(2)};
}

// An uninitialised tensor of count structs.
template <typename Struct>
Tensor workspace(const Tensor& like, int64_t count) {
  return empty_on(like, {count * static_cast<int64_t>(sizeof(Struct))}, ScalarType::Byte);
}

void check_batch_size(const Tensor& conf, const char* op) {
  STD_TORCH_CHECK(conf.size(0) * conf.size(1) < (int64_t{1} << 31) && conf.size(2) < (1 << 24), op,
                  ": expected less than 2^31 priors in the batch and 2^24 classes");
}

// See multibox_cpu.cpp for the shapes.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> multibox_loss(
    const Tensor& loc_in, const Tensor& conf_in, const Tensor& codes, const Tensor& boxes,
    const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& priors, const std::optional<Tensor>& variances,
    const MultiBoxSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  const CudaScope scope(conf_in);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  check_batch_size(conf, "multibox_loss");
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances);
  const int64_t images = conf.size(0), width = conf.size(1);
  const auto wide = wide_dtype(conf.scalar_type());
  const MultiBoxRule rule = multibox_rule(settings, conf.size(2));
  Tensor localization = empty_on(conf, {}, wide), classification = empty_on(conf, {}, wide);
  Tensor num_positives = empty_on(conf, {}, ScalarType::Long);
  Tensor keys = empty_on(conf, {images, width}, key_dtype(conf.scalar_type()));
  Tensor cuts = empty_on(conf, {images, 2}, ScalarType::Long);
  Tensor scales = empty_on(conf, {images}, wide);
  Tensor sums = workspace<ImageSums>(conf, images), arrived = workspace<unsigned>(conf, 1);
  dispatch_floating(conf.scalar_type(), "multibox_loss", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const TilePlan plan = plan_tile<S>(conf.size(2));
    const int64_t tiles = plan.tiles(width);
    const Tensor tile_sums = workspace<ImageSums>(conf, images * tiles);
    std::optional<Tensor> positive_loss;
    if (rule.loss.positives_twice) positive_loss = empty_on(conf, {images, width}, wide);
    T* positive = positive_loss ? out<T>(*positive_loss) : nullptr;
    const Targets<T> target = targets.get<T>(settings);
    check_cuda(launch_keys<S, T>({.loc = rows_of<S>(loc),
                                  .conf = rows_of<S>(conf),
                                  .targets = target,
                                  .rule = rule,
                                  .images = images,
                                  .width = width,
                                  .keys = out<Ordered<T>>(keys),
                                  .positive_loss = positive,
                                  .tiles = out<ImageSums>(tile_sums),
                                  .arrived = out<unsigned>(arrived)},
                                 plan, scope.stream()),
               "multibox_loss");
    check_cuda(launch_select<T>({.keys = in<Ordered<T>>(keys),
                                 .positive_loss = positive,
                                 .tiles = in<ImageSums>(tile_sums),
                                 .targets = target,
                                 .rule = rule,
                                 .images = images,
                                 .width = width,
                                 .tiles_per_image = tiles,
                                 .arrived = out<unsigned>(arrived),
                                 .sums = out<ImageSums>(sums),
                                 .cuts = out<int64_t>(cuts),
                                 .localization = out<T>(localization),
                                 .classification = out<T>(classification),
                                 .num_positives = out<int64_t>(num_positives),
                                 .scales = out<T>(scales)},
                                scope.stream()),
               "multibox_loss");
  });
  return {localization, classification, num_positives, keys, cuts, scales};
}

// Uninitialised, of the shape of t, [B, P, K], in the memory layout of t.
Tensor empty_like_rows(const Tensor& t) {
  if (!is_channels_first(t)) {
    return empty_on(t, {t.size(0), t.size(1), t.size(2)}, t.scalar_type());
  }
  return swap_last(empty_on(t, {t.size(0), t.size(2), t.size(1)}, t.scalar_type()));
}

std::tuple<Tensor, Tensor> multibox_loss_backward(
    const Tensor& grad_loc, const Tensor& grad_conf, const Tensor& loc_in, const Tensor& conf_in,
    const Tensor& codes, const Tensor& boxes, const std::optional<Tensor>& labels,
    const std::optional<Tensor>& offsets, const std::optional<Tensor>& priors,
    const std::optional<Tensor>& variances, const Tensor& keys_in, const Tensor& cuts_in,
    const Tensor& scales_in, const MultiBoxSettings& settings) {
  check_batch(loc_in, conf_in, codes, boxes, labels, offsets, priors, variances);
  check_selection(conf_in, grad_loc, grad_conf, keys_in, cuts_in, scales_in);
  const CudaScope scope(conf_in);
  const Tensor loc = readable(loc_in), conf = readable(conf_in);
  const Tensor keys = dense(keys_in), cuts = dense(cuts_in), scales = dense(scales_in);
  const TargetTensors targets(codes, boxes, labels, offsets, priors, variances);
  const Tensor d_loc = empty_like_rows(loc), d_conf = empty_like_rows(conf);
  dispatch_floating(conf.scalar_type(), "multibox_loss_backward", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    check_cuda(launch_backward<S, T>({.loc = rows_of<S>(loc),
                                      .conf = rows_of<S>(conf),
                                      .targets = targets.get<T>(settings),
                                      .rule = multibox_rule(settings, conf.size(2)),
                                      .images = conf.size(0),
                                      .width = conf.size(1),
                                      .keys = in<Ordered<T>>(keys),
                                      .cuts = in<int64_t>(cuts),
                                      .scales = in<T>(scales),
                                      .grad_loc = in<T>(grad_loc),
                                      .grad_conf = in<T>(grad_conf),
                                      .d_loc = rows_to<S>(d_loc),
                                      .d_conf = rows_to<S>(d_conf)},
                                     scope.stream()),
               "multibox_loss_backward");
  });
  return {d_loc, d_conf};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("multibox_loss", SSD_BOX(&multibox_loss));
  m.impl("multibox_loss_backward", SSD_BOX(&multibox_loss_backward));
}

}  // namespace ssd_cuda
