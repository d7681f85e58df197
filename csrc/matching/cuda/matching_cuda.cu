// Bindings of the matching family for CUDA tensors.
#include "matching.cuh"
#include "matching/matching_op.h"

namespace ssd_cuda {
namespace {

Tensor match(const Tensor& boxes, const Tensor& offsets, const Tensor& priors,
             const MatchSettings& settings) {
  check_match(boxes, offsets, priors);
  const CudaScope scope(priors);
  const Tensor truth = dense(boxes), offset = dense(offsets), prior = dense(priors);
  const int64_t rows = truth.size(0), batch = offset.numel() - 1;
  const int64_t num_priors = prior.size(prior.dim() - 2);
  Tensor result = empty_on(prior, {batch, num_priors}, ScalarType::Int);
  if (batch * num_priors == 0) return result;
  dispatch_real(prior.scalar_type(), "match", [&](auto zero) {
    using T = decltype(zero);
    const auto rule = match_rule<T>(settings);
    const bool per_image = prior.dim() == 3;
    const int64_t tables = per_image ? batch : 1, groups = num_groups(num_priors);
    const int64_t pair_rows = rule.forced == Forced::kBipartite ? rows : 0;
    const Tensor group =
        empty_on(prior, {tables * groups, sizeof(PriorGroup<T>)}, ScalarType::Byte);
    const Tensor tops = empty_on(prior, {pair_rows, sizeof(BestPrior<T>)}, ScalarType::Byte);
    const Tensor renames =
        empty_on(prior, {rule.relabels() ? batch * num_priors : 0}, ScalarType::Int);
    const MatchArgs<T> args{.boxes = in<T>(truth),
                            .offsets = in<int32_t>(offset),
                            .priors = in<T>(prior),
                            .rows = rows,
                            .batch = batch,
                            .num_priors = num_priors,
                            .per_image = per_image,
                            .rule = rule,
                            .groups = out<PriorGroup<T>>(group),
                            .tops = out<BestPrior<T>>(tops),
                            .renames = out<int32_t>(renames),
                            .codes = out<int32_t>(result)};
    check_cuda(launch_match(args, scope.stream()), "match");
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { m.impl("match", SSD_BOX(&match)); }

}  // namespace ssd_cuda
