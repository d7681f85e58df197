// Which kernels match a problem: the one of clusters, or the three.
#pragma once

#include <algorithm>

#include "cluster_match.cuh"

namespace ssd_cuda {

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

// Truths of an image, on average, that are few: their pairs take less time than the second wave of a launch.
constexpr int64_t kFewTruths = 32;

// Whether all clusters of 8 run at once. Two blocks fit on a multiprocessor, but a cluster lies in one part of the card,
// whose multiprocessors are seldom a multiple of 8: of 33 that the blocks alone would allow an H200 runs 30.
inline bool all_at_once(int64_t clusters) {
  return clusters * 8 * 11 <= 2 * multiprocessors() * 10;
}

// The one place that chooses. Clusters wherever they can: on an H100 and an H200 the three kernels took longer at every size
// (B = 1 8.1 us for 5.5, 32 11.9 for 10.8, 32 with 100 truths 40.4 for 38, 128 26 for 25.6). Of 8 blocks where these are
// all there at once or where an image has many truths (38 us at B = 32, of 4 46), else of 4 (10.8, of 8 11.7), where these
// can hold the priors; a block has four groups at least.
template <typename T>
inline MatchPlan match_plan(const MatchProblem<T>& problem) {
  if constexpr (MatchArgs<T>::kKeys) {
    if (problem.rule.forced == Forced::kBipartite) return {};
    if (!has_clusters(reinterpret_cast<const void*>(cluster_match_of(problem)))) return {};
    int most = 3;
    while (most > 0 && num_groups(problem.num_priors) < int64_t{4} << most) --most;
    const bool few = problem.rows <= kFewTruths * problem.batch;
    if (few && most > 2 && !all_at_once(problem.batch)) {
      const MatchPlan plan = cluster_plan(problem, 2);
      if (plan.blocks > 0) return plan;
    }
    return cluster_plan(problem, most);
  }
  return {};
}

}  // namespace ssd_cuda
