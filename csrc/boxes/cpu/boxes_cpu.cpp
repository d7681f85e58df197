// Pairwise IoU, encode and decode on the CPU; the schemas of the family.
#include "box_coder.h"
#include "common/torch/torch_api.h"
#include "iou_matrix.h"

namespace ssd_cuda {
namespace {

// The tensors of a coder, dense.
class CoderTensors {
 public:
  CoderTensors(const Tensor& priors, const std::optional<Tensor>& variances,
               const Doubles& variance, bool xyxy, double max_log = 0, bool symmetric = false)
      : priors_(dense(priors)),
        variances_(variances ? std::optional(dense(*variances)) : std::nullopt),
        variance_(variance),
        xyxy_(xyxy),
        max_log_(max_log),
        symmetric_(symmetric) {}

  template <typename T>
  Coder<T> get() const {
    return {.priors = in<Vec4<T>>(priors_),
            .variances = in<Vec4<T>>(variances_),
            .variance = {T(variance_[0]), T(variance_[1]), T(variance_[2]), T(variance_[3])},
            .prior_rows = priors_.numel() / 4,
            .format = xyxy_ ? BoxFormat::kXyxy : BoxFormat::kCxcywh,
            .clamp = {T(max_log_), symmetric_}};
  }

 private:
  Tensor priors_;
  std::optional<Tensor> variances_;
  Doubles variance_;
  bool xyxy_;
  double max_log_;
  bool symmetric_;
};

Tensor box_encode(const Tensor& boxes, const Tensor& priors, const std::optional<Tensor>& variances,
                  const Doubles& variance, bool xyxy) {
  const CoderTensors coder(priors, variances, variance, xyxy);
  const Tensor source = dense(boxes);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode", [&](auto zero) {
    using T = decltype(zero);
    encode_boxes(coder.get<T>(), in<Vec4<T>>(source), boxes.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_encode_backward(const Tensor& grad, const Tensor& boxes, const Tensor& priors,
                           const std::optional<Tensor>& variances, const Doubles& variance,
                           bool xyxy) {
  const CoderTensors coder(priors, variances, variance, xyxy);
  const Tensor upstream = dense(grad), source = dense(boxes);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode_backward", [&](auto zero) {
    using T = decltype(zero);
    encode_boxes_backward(coder.get<T>(), in<Vec4<T>>(upstream), in<Vec4<T>>(source),
                          boxes.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_decode(const Tensor& loc, const Tensor& priors, const std::optional<Tensor>& variances,
                  const Doubles& variance, bool xyxy, double max_log, bool symmetric) {
  const CoderTensors coder(priors, variances, variance, xyxy, max_log, symmetric);
  const Tensor source = dense(loc);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode", [&](auto zero) {
    using T = decltype(zero);
    decode_boxes(coder.get<T>(), in<Vec4<T>>(source), loc.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_decode_backward(const Tensor& grad, const Tensor& loc, const Tensor& priors,
                           const std::optional<Tensor>& variances, const Doubles& variance,
                           bool xyxy, double max_log, bool symmetric) {
  const CoderTensors coder(priors, variances, variance, xyxy, max_log, symmetric);
  const Tensor upstream = dense(grad), source = dense(loc);
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode_backward", [&](auto zero) {
    using T = decltype(zero);
    decode_boxes_backward(coder.get<T>(), in<Vec4<T>>(upstream), in<Vec4<T>>(source),
                          loc.numel() / 4, out<Vec4<T>>(result));
  });
  return result;
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor result = empty_on(first, {n, m}, first.scalar_type());
  dispatch_real(first.scalar_type(), "box_iou", [&](auto zero) {
    using T = decltype(zero);
    iou_matrix(in<Vec4<T>>(first), n, in<Vec4<T>>(second), m, T(eps), out<T>(result));
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2, float eps) -> Tensor");
  m.def(
      "box_encode(Tensor boxes, Tensor priors, Tensor? variances, float[] variance, bool xyxy) "
      "-> Tensor");
  m.def(
      "box_encode_backward(Tensor grad, Tensor boxes, Tensor priors, Tensor? variances, "
      "float[] variance, bool xyxy) -> Tensor");
  m.def(
      "box_decode(Tensor loc, Tensor priors, Tensor? variances, float[] variance, bool xyxy, "
      "float max_log, bool symmetric) -> Tensor");
  m.def(
      "box_decode_backward(Tensor grad, Tensor loc, Tensor priors, Tensor? variances, "
      "float[] variance, bool xyxy, float max_log, bool symmetric) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("box_encode", TORCH_BOX(&box_encode));
  m.impl("box_encode_backward", TORCH_BOX(&box_encode_backward));
  m.impl("box_decode", TORCH_BOX(&box_decode));
  m.impl("box_decode_backward", TORCH_BOX(&box_decode_backward));
}

}  // namespace ssd_cuda
