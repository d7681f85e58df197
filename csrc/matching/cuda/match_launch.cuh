// Matching for the ops of other families: its kernels are compiled once, in matching_cuda.cu.
#pragma once

#include "match_args.cuh"

namespace ssd_cuda {

// What a problem, float or double, is matched by, and the bytes of scratch memory that this takes.
template <typename T>
MatchPlan plan_of_match(const MatchProblem<T>& problem);
template <typename T>
int64_t match_bytes(const MatchProblem<T>& problem, const MatchPlan& plan);

// Its launches; memory: so many bytes, aligned to 256. Where plan.blocks > 0 it is one kernel of after_all_before().
template <typename T>
cudaError_t launch_planned_match(const MatchProblem<T>& problem, const MatchPlan& plan,
                                 char* memory, cudaStream_t stream);

}  // namespace ssd_cuda
