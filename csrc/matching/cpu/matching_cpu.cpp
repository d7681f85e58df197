// Matching on the CPU; the schema of the family.
#include "common/torch/torch_api.h"
#include "match_call.h"

namespace ssd_cuda {
namespace {

Tensor match(const Tensor& boxes, const Tensor& offsets, const Tensor& priors, double threshold,
             bool inclusive, double eps, int64_t forced, double forced_min, bool relabel_unforced,
             bool tie_last, double candidate_max, bool ignore_degenerate, bool xyxy) {
  const Tensor truth = dense(boxes), offset = dense(offsets), prior = dense(priors);
  const int64_t batch = offset.numel() - 1, num_priors = prior.size(prior.dim() - 2);
  Tensor result = empty_on(prior, {batch, num_priors}, ScalarType::Int);
  if (batch * num_priors == 0) return result;
  dispatch_real(prior.scalar_type(), "match", [&](auto zero) {
    using T = decltype(zero);
    MatchCall<T>{
        .boxes = in<Vec4<T>>(truth),
        .offsets = in<int32_t>(offset),
        .priors = in<Vec4<T>>(prior),
        .rows = truth.size(0),
        .batch = batch,
        .num_priors = num_priors,
        .per_image = prior.dim() == 3,
        .rule = make_match_rule<T>(threshold, inclusive, eps, forced, forced_min, relabel_unforced,
                                   tie_last, candidate_max, ignore_degenerate, xyxy),
        .codes = out<int32_t>(result)}
        .run();
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "match(Tensor boxes, Tensor offsets, Tensor priors, float threshold, bool inclusive, float "
      "eps, "
      "int forced, float forced_min, bool relabel_unforced, bool tie_last, float candidate_max, "
      "bool ignore_degenerate, bool xyxy) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("match", TORCH_BOX(&match)); }

}  // namespace ssd_cuda
