// Bindings of the boxes family for CUDA tensors.
#include "boxes.cuh"
#include "boxes/boxes_op.h"

namespace ssd_cuda {
namespace {

// input, grad: [..., 4] over priors [P, 4]; grad is empty for the forward ops.
template <CoderOp kOp, typename Settings>
Tensor run_coder(const char* op, const Tensor& input, const std::optional<Tensor>& grad,
                 const Tensor& priors, const std::optional<Tensor>& variances,
                 const Settings& settings) {
  check_coder(input, grad, priors, variances);
  const CudaScope scope(input);
  const Tensor source = dense(input), prior = dense(priors);
  const auto var = variances ? std::optional(dense(*variances)) : std::nullopt;
  const auto upstream = grad ? std::optional(dense(*grad)) : std::nullopt;
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(input.scalar_type(), op, [&](auto zero) {
    using T = decltype(zero);
    const CoderArgs<T> args{.priors = in<T>(prior),
                            .variances = in<T>(var),
                            .variance = vec4<T>(settings.variance),
                            .rows = source.numel() / 4,
                            .prior_rows = prior.numel() / 4,
                            .format = box_format(settings.xyxy),
                            .clamp = log_clamp<T>(settings)};
    check_cuda(
        launch_coder<T, kOp>(args, in<T>(source), in<T>(upstream), out<T>(result), scope.stream()),
        op);
  });
  return result;
}

Tensor box_encode(const Tensor& boxes, const Tensor& priors, const std::optional<Tensor>& variances,
                  const EncodeSettings& settings) {
  return run_coder<CoderOp::kEncode>("box_encode", boxes, std::nullopt, priors, variances,
                                     settings);
}

Tensor box_encode_backward(const Tensor& grad, const Tensor& boxes, const Tensor& priors,
                           const std::optional<Tensor>& variances, const EncodeSettings& settings) {
  return run_coder<CoderOp::kEncodeBackward>("box_encode_backward", boxes, grad, priors, variances,
                                             settings);
}

Tensor box_decode(const Tensor& loc, const Tensor& priors, const std::optional<Tensor>& variances,
                  const DecodeSettings& settings) {
  return run_coder<CoderOp::kDecode>("box_decode", loc, std::nullopt, priors, variances, settings);
}

Tensor box_decode_backward(const Tensor& grad, const Tensor& loc, const Tensor& priors,
                           const std::optional<Tensor>& variances, const DecodeSettings& settings) {
  return run_coder<CoderOp::kDecodeBackward>("box_decode_backward", loc, grad, priors, variances,
                                             settings);
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, const IouSettings& settings) {
  check_iou(boxes1, boxes2);
  const CudaScope scope(boxes1);
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor result = empty_on(first, {n, m}, first.scalar_type());
  dispatch_real(first.scalar_type(), "box_iou", [&](auto zero) {
    using T = decltype(zero);
    check_cuda(launch_iou<T>(in<T>(first), in<T>(second), n, m, T(settings.eps), out<T>(result),
                             scope.stream()),
               "box_iou");
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("box_iou", SSD_BOX(&box_iou));
  m.impl("box_encode", SSD_BOX(&box_encode));
  m.impl("box_encode_backward", SSD_BOX(&box_encode_backward));
  m.impl("box_decode", SSD_BOX(&box_decode));
  m.impl("box_decode_backward", SSD_BOX(&box_decode_backward));
}

}  // namespace ssd_cuda
