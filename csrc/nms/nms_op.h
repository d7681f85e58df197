// What the ops of nms demand, for both devices.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "nms_rule.h"

namespace ssd_cuda {

inline void check_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                      int64_t max_output) {
  check_floating("boxes", boxes);
  check_size("boxes", boxes, {kAnySize, 4});
  const int64_t n = boxes.size(0);
  SSD_CHECK(n < (int64_t{1} << 31) - 1, "boxes must have at most 2^31 - 2 rows, got ", n);
  check_floating("scores", scores);
  check_tensor("scores", scores, scores.scalar_type(), {n}, boxes);
  check_tensor("idxs", idxs, ScalarType::Long, {n}, boxes);
  SSD_CHECK(max_output >= 0, "max_output must be at least 0, got ", max_output);
}

}  // namespace ssd_cuda
