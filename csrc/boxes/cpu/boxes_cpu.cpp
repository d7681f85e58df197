// Pairwise IoU, encode and decode on the CPU; the schemas of the family.
#include "box_coder.h"
#include "boxes/boxes_op.h"
#include "iou_matrix.h"

namespace ssd_cuda {
namespace {

// The tensors of a coder, dense, and its options.
template <typename Settings>
class CoderTensors {
 public:
  CoderTensors(const Tensor& priors, const std::optional<Tensor>& variances,
               const Settings& settings)
      : priors_(dense(priors)),
        variances_(variances ? std::optional(dense(*variances)) : std::nullopt),
        settings_(settings) {}

  template <typename T>
  Coder<T> get() const {
    return {.priors = in<Vec4<T>>(priors_),
            .variances = in<Vec4<T>>(variances_),
            .variance = vec4<T>(settings_.variance),
            .prior_rows = priors_.numel() / 4,
            .format = box_format(settings_.xyxy),
            .clamp = log_clamp<T>(settings_)};
  }

 private:
  Tensor priors_;
  std::optional<Tensor> variances_;
  const Settings& settings_;
};

Tensor box_encode(const Tensor& boxes, const Tensor& priors, const std::optional<Tensor>& variances,
                  const EncodeSettings& settings) {
  check_coder(boxes, std::nullopt, priors, variances);
  const CoderTensors coder(priors, variances, settings);
  const Tensor source = dense(boxes);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode", [&](auto zero) {
    using T = decltype(zero);
    encode_boxes(coder.template get<T>(), in<Vec4<T>>(source), boxes.numel() / 4,
                 out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_encode_backward(const Tensor& grad, const Tensor& boxes, const Tensor& priors,
                           const std::optional<Tensor>& variances, const EncodeSettings& settings) {
  check_coder(boxes, grad, priors, variances);
  const CoderTensors coder(priors, variances, settings);
  const Tensor upstream = dense(grad), source = dense(boxes);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode_backward", [&](auto zero) {
    using T = decltype(zero);
    encode_boxes_backward(coder.template get<T>(), in<Vec4<T>>(upstream), in<Vec4<T>>(source),
                          boxes.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_decode(const Tensor& loc, const Tensor& priors, const std::optional<Tensor>& variances,
                  const DecodeSettings& settings) {
  check_coder(loc, std::nullopt, priors, variances);
  const CoderTensors coder(priors, variances, settings);
  const Tensor source = dense(loc);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode", [&](auto zero) {
    using T = decltype(zero);
    decode_boxes(coder.template get<T>(), in<Vec4<T>>(source), loc.numel() / 4,
                 out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_decode_backward(const Tensor& grad, const Tensor& loc, const Tensor& priors,
                           const std::optional<Tensor>& variances, const DecodeSettings& settings) {
  check_coder(loc, grad, priors, variances);
  const CoderTensors coder(priors, variances, settings);
  const Tensor upstream = dense(grad), source = dense(loc);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode_backward", [&](auto zero) {
    using T = decltype(zero);
    decode_boxes_backward(coder.template get<T>(), in<Vec4<T>>(upstream), in<Vec4<T>>(source),
                          loc.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, const IouSettings& settings) {
  check_iou(boxes1, boxes2);
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor result = empty_on(first, {n, m}, first.scalar_type());
  dispatch_real(first.scalar_type(), "box_iou", [&](auto zero) {
    using T = decltype(zero);
    iou_matrix(in<Vec4<T>>(first), n, in<Vec4<T>>(second), m, T(settings.eps), out<T>(result));
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<IouSettings>(m, "box_iou", "Tensor boxes1, Tensor boxes2", "Tensor");
  const std::string priors = ", Tensor priors, Tensor? variances";
  const std::string boxes = "Tensor boxes" + priors, loc = "Tensor loc" + priors;
  define_op<EncodeSettings>(m, "box_encode", boxes, "Tensor");
  define_op<EncodeSettings>(m, "box_encode_backward", "Tensor grad, " + boxes, "Tensor");
  define_op<DecodeSettings>(m, "box_decode", loc, "Tensor");
  define_op<DecodeSettings>(m, "box_decode_backward", "Tensor grad, " + loc, "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("box_iou", SSD_BOX(&box_iou));
  m.impl("box_encode", SSD_BOX(&box_encode));
  m.impl("box_encode_backward", SSD_BOX(&box_encode_backward));
  m.impl("box_decode", SSD_BOX(&box_decode));
  m.impl("box_decode_backward", SSD_BOX(&box_decode_backward));
}

}  // namespace ssd_cuda
