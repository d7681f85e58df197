// Which kernels match a problem: the one of clusters, or the three.
#pragma once

#include <algorithm>
#include <bit>

#include "cluster_match.cuh"

namespace ssd_cuda {

// In clusters of 2^bits blocks, whether or not a block can have so much shared memory; none where a block's groups are too
// many to be numbered.
template <typename T>
inline MatchPlan cluster_plan(const MatchProblem<T>& problem, int bits) {
  const int64_t slots = ceil_div(num_groups(problem.num_priors), int64_t{1} << bits);
  const std::size_t bytes =
      sizeof(ChunkTable<T>) + static_cast<std::size_t>(slots) * GroupTable<T>::kSlotBytes;
  if (slots > kMostSlots) return {};
  if (problem.batch >= int64_t{1} << (31 - bits)) return {};
  // A power of two: a thread has one truth of a chunk, numbered up to a power of two.
  const auto threads = std::clamp(std::bit_ceil(static_cast<unsigned>(kGroupPriors * slots)),
                                  unsigned{kChunkTruths}, unsigned{kClusterThreads});
  return {1u << bits, threads, bits, static_cast<int>(slots), bytes};
}

// Truths of an image, on average, that are few: their pairs take less time than a second wave of clusters.
constexpr int64_t kFewTruths = 32;

// The one place that chooses, by what an H100 and an H200 took for SSD300's priors. Clusters of 8 blocks where these are all
// there at once (B = 1 5.5 us, the three kernels 8.1; B = 32 8.9, of 4 10.5) or where an image has many truths (B = 32, 100
// truths 33 us, three kernels 40.4); else of 4 (B = 128 25.6, of 8 30.6, three kernels 26.0), and where these cannot hold the
// priors the three kernels. A block has four groups at least.
template <typename T>
inline MatchPlan match_plan(const MatchProblem<T>& problem) {
  if constexpr (MatchArgs<T>::kKeys) {
    const auto kernel = cluster_match_of(problem);
    if (problem.rule.forced == Forced::kBipartite) return {};
    if (!has_clusters(reinterpret_cast<const void*>(kernel))) return {};
    const auto at_once = [&](const MatchPlan& plan) -> int64_t {
      return plan.blocks == 0
                 ? 0
                 : clusters_at_once(plan.blocks, kernel, plan.threads, plan.shared_bytes);
    };
    int most = 3;
    while (most > 0 && num_groups(problem.num_priors) < int64_t{4} << most) --most;
    const MatchPlan wide = cluster_plan(problem, most);
    const int64_t running = at_once(wide);
    const bool few = problem.rows <= kFewTruths * problem.batch;
    if (few && most > 2 && problem.batch > running) {
      const MatchPlan plan = cluster_plan(problem, 2);
      return at_once(plan) > 0 ? plan : MatchPlan{};
    }
    if (running > 0) return wide;
  }
  return {};
}

}  // namespace ssd_cuda
