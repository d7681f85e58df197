// Bindings of the matching family for CUDA tensors.
#include "common/torch/planned.h"
#include "matching.cuh"
#include "matching/matching_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <typename T>
  static void match(const MatchProblem<T>& problem, const Tensor& where) {
    const CudaScope scope(where);
    const MatchPlan plan = match_plan(problem);
    const auto [memory, args] = planned<MatchArgs<T>>(where, problem, plan);
    check_cuda(launch_match(args, plan, scope.stream()), "match");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { m.impl("match", SSD_BOX(&match_op<RunOnCard>)); }

}  // namespace ssd_cuda
