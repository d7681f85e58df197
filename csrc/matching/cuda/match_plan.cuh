// Which kernels match a problem: the one of clusters, or the three.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "cluster_match.cuh"

namespace ssd_cuda {

enum class MatchForm { kThreeKernels, kClusters };

// SSD_CUDA_MATCH=cluster asks for clusters, to compare them. Three kernels are the default until a card has timed both;
// then this goes, and match_plan knows by card and size.
inline MatchForm wanted_match_form() {
  static const MatchForm wanted = [] {
    const char* text = std::getenv("SSD_CUDA_MATCH");
    return text != nullptr && std::string_view(text) == "cluster" ? MatchForm::kClusters
                                                                  : MatchForm::kThreeKernels;
  }();
  return wanted;
}

// In clusters of 2^bits blocks; none where the priors of a block do not fit in its shared memory.
template <typename T>
inline MatchPlan cluster_plan(const MatchProblem<T>& problem, int bits) {
  const int64_t slots = ceil_div(num_groups(problem.num_priors), int64_t{1} << bits);
  const std::size_t bytes =
      sizeof(ChunkTable<T>) + static_cast<std::size_t>(slots) * GroupTable<T>::kSlotBytes;
  if (slots > kMostSlots || bytes > dynamic_shared_room(0)) return {};
  if (problem.batch >= int64_t{1} << (31 - bits)) return {};
  const int64_t threads = std::clamp<int64_t>(32 * slots, kChunkTruths, kClusterThreads);
  return {1u << bits, static_cast<unsigned>(threads), bits, static_cast<int>(slots), bytes};
}

// The one place that chooses. Clusters of 8 while all blocks fit on the card at once, two a multiprocessor, else of 4, where
// these can hold the priors; a block has four groups at least.
template <typename T>
inline MatchPlan match_plan(const MatchProblem<T>& problem, MatchForm form) {
  if constexpr (MatchArgs<T>::kKeys) {
    const bool can = problem.rule.forced != Forced::kBipartite;
    if (form != MatchForm::kClusters || !can) return {};
    if (!has_clusters(reinterpret_cast<const void*>(cluster_match_of(problem)))) return {};
    int most = 3;
    while (most > 0 && num_groups(problem.num_priors) < int64_t{4} << most) --most;
    if (problem.batch * 8 > 2 * multiprocessors() && most > 2) {
      const MatchPlan plan = cluster_plan(problem, 2);
      if (plan.blocks > 0) return plan;
    }
    return cluster_plan(problem, most);
  }
  return {};
}

}  // namespace ssd_cuda
