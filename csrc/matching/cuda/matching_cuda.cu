// Bindings of the matching family for CUDA tensors.
#include "common/torch/planned.h"
#include "match_launch.cuh"
#include "matching.cuh"
#include "matching/matching_op.h"

namespace ssd_cuda {

template <typename T>
MatchPlan plan_of_match(const MatchProblem<T>& problem) {
  return match_plan(problem);
}
template <typename T>
cudaError_t launch_planned_match(const MatchArgs<T>& args, const MatchPlan& plan,
                                 cudaStream_t stream) {
  return launch_match(args, plan, stream);
}
template MatchPlan plan_of_match(const MatchProblem<float>&);
template MatchPlan plan_of_match(const MatchProblem<double>&);
template cudaError_t launch_planned_match(const MatchArgs<float>&, const MatchPlan&, cudaStream_t);
template cudaError_t launch_planned_match(const MatchArgs<double>&, const MatchPlan&, cudaStream_t);

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
