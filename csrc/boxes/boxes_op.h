// The ops of boxes for both devices: what they demand, their tensors, dispatch. A device says how, in a struct Run.
#pragma once

#include "coder.h"
#include "common/torch/boxing.h"
#include "common/torch/checks.h"

namespace ssd_cuda {

inline void check_iou(const Tensor& boxes1, const Tensor& boxes2) {
  check_real("boxes1", boxes1);
  check_size("boxes1", boxes1, {kAnySize, 4});
  check_tensor("boxes2", boxes2, boxes1.scalar_type(), {kAnySize, 4}, boxes1);
}

inline bool has_rows_of_four(const Tensor& t) { return t.dim() > 0 && t.size(t.dim() - 1) == 4; }
inline bool same_sizes(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

// rows: boxes or loc. The priors repeat, so that [P, 4] serves [B, P, 4].
inline void check_coder(const Tensor& rows, const std::optional<Tensor>& grad, const Tensor& priors,
                        const std::optional<Tensor>& variances) {
  check_real("boxes or loc", rows);
  SSD_CHECK(has_rows_of_four(rows), "boxes or loc must have shape [..., 4], got ",
            size_text(rows.sizes()));
  check_kind("priors", priors, rows.scalar_type(), rows);
  const int64_t count = rows.numel() / 4;
  SSD_CHECK(has_rows_of_four(priors), "priors must have shape [..., 4], got ",
            size_text(priors.sizes()));
  const int64_t prior_rows = priors.numel() / 4;
  SSD_CHECK(count == 0 || (prior_rows > 0 && count % prior_rows == 0), "priors must have ", count,
            " rows or a divisor of it, got ", prior_rows);
  if (variances) {
    check_kind("variances", *variances, rows.scalar_type(), rows);
    SSD_CHECK(same_sizes(*variances, priors), "variances must have the shape of priors, ",
              size_text(priors.sizes()), ", got ", size_text(variances->sizes()));
  }
  if (grad) {
    check_kind("grad", *grad, rows.scalar_type(), rows);
    SSD_CHECK(same_sizes(*grad, rows), "grad must have the shape of its result, ",
              size_text(rows.sizes()), ", got ", size_text(grad->sizes()));
  }
}

// input: boxes of an encode, loc of a decode, [..., 4]. Run::coder<kOp>(coder, rows, input, grad, output, where).
template <typename Run, CoderOp kOp, typename Settings>
Tensor run_coder(const Tensor& input, const std::optional<Tensor>& grad, const Tensor& priors,
                 const std::optional<Tensor>& variances, const Settings& settings) {
  check_coder(input, grad, priors, variances);
  const Tensor source = dense(input), prior = dense(priors);
  const auto upstream = dense_or_none(grad), own_variances = dense_or_none(variances);
  const Tensor result = torch::stable::empty_like(source);
  dispatch_real(input.scalar_type(), "coder", [&](auto zero) {
    using T = decltype(zero);
    const auto coder =
        Coder<T>::of(in<Vec4<T>>(prior), in<Vec4<T>>(own_variances), prior.numel() / 4, settings);
    Run::template coder<kOp>(coder, source.numel() / 4, in<Vec4<T>>(source), in<Vec4<T>>(upstream),
                             out<Vec4<T>>(result), source);
  });
  return result;
}

template <typename Run>
Tensor box_encode(const Tensor& boxes, const Tensor& priors, const std::optional<Tensor>& variances,
                  const EncodeSettings& settings) {
  return run_coder<Run, CoderOp::kEncode>(boxes, std::nullopt, priors, variances, settings);
}
template <typename Run>
Tensor box_encode_backward(const Tensor& grad, const Tensor& boxes, const Tensor& priors,
                           const std::optional<Tensor>& variances, const EncodeSettings& settings) {
  return run_coder<Run, CoderOp::kEncodeBackward>(boxes, grad, priors, variances, settings);
}
template <typename Run>
Tensor box_decode(const Tensor& loc, const Tensor& priors, const std::optional<Tensor>& variances,
                  const DecodeSettings& settings) {
  return run_coder<Run, CoderOp::kDecode>(loc, std::nullopt, priors, variances, settings);
}
template <typename Run>
Tensor box_decode_backward(const Tensor& grad, const Tensor& loc, const Tensor& priors,
                           const std::optional<Tensor>& variances, const DecodeSettings& settings) {
  return run_coder<Run, CoderOp::kDecodeBackward>(loc, grad, priors, variances, settings);
}

// Run::iou(boxes1, n, boxes2, m, eps, output, where)
template <typename Run>
Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, const IouSettings& settings) {
  check_iou(boxes1, boxes2);
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  const Tensor result = empty_on(first, {n, m}, first.scalar_type());
  dispatch_real(first.scalar_type(), "box_iou", [&](auto zero) {
    using T = decltype(zero);
    Run::iou(in<Vec4<T>>(first), n, in<Vec4<T>>(second), m, T(settings.eps), out<T>(result), first);
  });
  return result;
}

template <typename Run, typename Library>
void implement_boxes(Library& m) {
  m.impl("box_iou", SSD_BOX(&box_iou<Run>));
  m.impl("box_encode", SSD_BOX(&box_encode<Run>));
  m.impl("box_encode_backward", SSD_BOX(&box_encode_backward<Run>));
  m.impl("box_decode", SSD_BOX(&box_decode<Run>));
  m.impl("box_decode_backward", SSD_BOX(&box_decode_backward<Run>));
}

}  // namespace ssd_cuda
