// What the ops of boxes demand, for both devices.
#pragma once

#include "boxes_rule.h"
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

}  // namespace ssd_cuda
