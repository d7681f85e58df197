// Matching for the ops of other families: its kernels are compiled once, in matching_cuda.cu.
#pragma once

#include "match_args.cuh"

namespace ssd_cuda {

// What a problem, float or double, is matched by.
template <typename T>
MatchPlan plan_of_match(const MatchProblem<T>& problem);

// launch_match(). Where plan.blocks > 0 it is one kernel of after_all_before().
template <typename T>
cudaError_t launch_planned_match(const MatchArgs<T>& args, const MatchPlan& plan,
                                 cudaStream_t stream);

}  // namespace ssd_cuda
