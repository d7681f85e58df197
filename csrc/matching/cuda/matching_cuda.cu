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
int64_t match_bytes(const MatchProblem<T>& problem, const MatchPlan& plan) {
  const WorkspaceBytes size;
  (void)MatchArgs<T>(problem, plan, size);
  return size.bytes();
}
template <typename T>
cudaError_t launch_planned_match(const MatchProblem<T>& problem, const MatchPlan& plan,
                                 char* memory, cudaStream_t stream) {
  return launch_match(MatchArgs<T>(problem, plan, WorkspaceMemory(memory)), plan, stream);
}

#define SSD_MATCH_ON_CARD(T)                                                                    \
  template MatchPlan plan_of_match<T>(const MatchProblem<T>&);                                  \
  template int64_t match_bytes<T>(const MatchProblem<T>&, const MatchPlan&);                    \
  template cudaError_t launch_planned_match<T>(const MatchProblem<T>&, const MatchPlan&, char*, \
                                               cudaStream_t);
SSD_MATCH_ON_CARD(float)
SSD_MATCH_ON_CARD(double)

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
