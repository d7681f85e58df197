// What matching demands, for both devices.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "matching_rule.h"

namespace ssd_cuda {

inline void check_match(const Tensor& boxes, const Tensor& offsets, const Tensor& priors) {
  check_real("priors", priors);
  check_tensor("boxes", boxes, priors.scalar_type(), {kAnySize, 4}, priors);
  check_tensor("offsets", offsets, ScalarType::Int, {kAnySize}, priors);
  const int64_t images = offsets.size(0) - 1;
  SSD_CHECK(images >= 0, "offsets must hold one number more than there are images, got none");
  const int64_t width = priors.dim() >= 2 ? priors.size(priors.dim() - 2) : 0;
  check_priors("priors", priors, priors.scalar_type(), images, width, priors);
  SSD_CHECK(width < (int64_t{1} << 31), "priors must have fewer than 2^31 rows, got ", width);
}

}  // namespace ssd_cuda
