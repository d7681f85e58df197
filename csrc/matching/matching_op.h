// The op of matching for both devices: what it demands, its tensors, dispatch. A device says how, in a struct Run.
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

// boxes: [G, 4], offsets: [B + 1], priors: [P, 4] or [B, P, 4] -> int32 [B, P]. Run::match(problem, where)
template <typename Run>
Tensor match_op(const Tensor& boxes, const Tensor& offsets, const Tensor& priors,
                const MatchSettings& settings) {
  check_match(boxes, offsets, priors);
  const Tensor truth = dense(boxes), offset = dense(offsets), prior = dense(priors);
  const int64_t batch = offset.numel() - 1, num_priors = prior.size(prior.dim() - 2);
  const Tensor result = empty_on(prior, {batch, num_priors}, ScalarType::Int);
  if (batch * num_priors == 0) return result;
  dispatch_real(prior.scalar_type(), "match", [&](auto zero) {
    using T = decltype(zero);
    const MatchProblem<T> problem{.boxes = in<Vec4<T>>(truth),
                                  .offsets = in<int32_t>(offset),
                                  .priors = in<Vec4<T>>(prior),
                                  .rows = truth.size(0),
                                  .batch = batch,
                                  .num_priors = num_priors,
                                  .per_image = prior.dim() == 3,
                                  .rule = match_rule<T>(settings),
                                  .codes = out<int32_t>(result)};
    Run::match(problem, prior);
  });
  return result;
}

}  // namespace ssd_cuda
