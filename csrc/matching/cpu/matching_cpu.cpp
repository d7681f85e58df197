// Matching on the CPU; the schema of the family.
#include "match_call.h"
#include "matching/matching_op.h"

namespace ssd_cuda {
namespace {

Tensor match(const Tensor& boxes, const Tensor& offsets, const Tensor& priors,
             const MatchSettings& settings) {
  check_match(boxes, offsets, priors);
  const Tensor truth = dense(boxes), offset = dense(offsets), prior = dense(priors);
  const int64_t batch = offset.numel() - 1, num_priors = prior.size(prior.dim() - 2);
  Tensor result = empty_on(prior, {batch, num_priors}, ScalarType::Int);
  if (batch * num_priors == 0) return result;
  dispatch_real(prior.scalar_type(), "match", [&](auto zero) {
    using T = decltype(zero);
    MatchCall<T>{.boxes = in<Vec4<T>>(truth),
                 .offsets = in<int32_t>(offset),
                 .priors = in<Vec4<T>>(prior),
                 .rows = truth.size(0),
                 .batch = batch,
                 .num_priors = num_priors,
                 .per_image = prior.dim() == 3,
                 .rule = match_rule<T>(settings),
                 .codes = out<int32_t>(result)}
        .run();
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<MatchSettings>(m, "match", "Tensor boxes, Tensor offsets, Tensor priors", "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("match", SSD_BOX(&match)); }

}  // namespace ssd_cuda
