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

// Of dense tensors that are in order; codes: [B, P].
template <typename T, typename Settings>
MatchProblem<T> match_problem(const Tensor& boxes, const Tensor& offsets, const Tensor& priors,
                              const Settings& settings, const Tensor& codes) {
  return {.boxes = in<Vec4<T>>(boxes),
          .offsets = in<int32_t>(offsets),
          .priors = in<Vec4<T>>(priors),
          .rows = boxes.size(0),
          .batch = codes.size(0),
          .num_priors = codes.size(1),
          .per_image = priors.dim() == 3,
          .rule = match_rule<T>(settings),
          .codes = out<int32_t>(codes)};
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
    Run::match(match_problem<T>(truth, offset, prior, settings, result), prior);
  });
  return result;
}

}  // namespace ssd_cuda
