// Matching of ragged ground truth with priors, without an IoU matrix. One kernel (cluster_match.cuh; match_plan.cuh says
// when), or three, one after the other:
//
//   group_kernel   of every 32 priors the box around them and the range of their areas
//   match_kernel   codes of all priors by threshold; and the best prior of each truth, where it is owed one
//   claim_kernel, pair_kernel    what truths are owed (force.cuh)
//
// match_kernel: a warp a group, a lane a prior; or, where an image has many truths, several warps with a part of the
// truths each, since a group with 40 truths that matter is a chain of 40 divisions. A group bounds the overlap of all
// of its priors with a truth (prior_group.h), for 32 truths at once, and only pairs that can matter are evaluated: first
// those that can reach the threshold, then those that can reach the best overlap of their truth so far. That one is read
// while other blocks raise it (an atomic maximum): an older one only means a look more. The groups of the large priors
// come first, which nearly every truth overlaps and most find their best prior in. Nothing is pruned where a bad box or
// a threshold of 0 makes every pair matter: the same kernels, slower.
//
// Reads 16 B a prior, 32 B a group, 16 B a truth and warp (of L1), 8 B a truth and warp (of L2); writes 4 B a prior,
// 8 B a truth and warp that raises it. Results do not depend on the order of arrival. No host sync: the offsets stay on
// the card. Bounds: priors < 2^31, truths of an image < 2^31.
#pragma once

#include "force.cuh"
#include "match_args.cuh"
#include "match_plan.cuh"

namespace ssd_cuda {

// Also keys to 0.
template <typename T>
__global__ void __launch_bounds__(kMatchBlock) group_kernel(const MatchArgs<T> args) {
  after_previous_kernel();
  const unsigned blocks =
      static_cast<unsigned>(ceil_div<int64_t>(args.num_priors, kMatchBlock));  // < 2^23
  const int64_t b = blockIdx.x / blocks;
  const int64_t p = int64_t{blockIdx.x % blocks} * kMatchBlock + threadIdx.x;
  const bool real = p < args.num_priors;
  if constexpr (MatchArgs<T>::kKeys) {
    const bool keys = args.rule.forced != Forced::kNone;
    const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * kMatchBlock + threadIdx.x;
    for (int64_t i = first; keys && i < args.rows; i += int64_t{gridDim.x} * kMatchBlock) {
      args.keys[i] = 0;
    }
  }
  PriorGroup<T> own = PriorGroup<T>::none();
  if (real) {
    const Vec4<T> prior = args.prior(b, p);
    own = PriorGroup<T>::of(prior, args.rule.prior_area(prior));
  }
  const PriorGroup<T> group = warp_group(own);
  if (real && lane_index() == 0) args.image_groups(b)[p / kGroupPriors] = group;
}

// A group and the truths that a warp looks at, by the whole warp.
template <typename T, bool kKeeps>
class GroupMatch {
 public:
  __device__ __forceinline__ GroupMatch(const MatchArgs<T>& args, int64_t b, int64_t group,
                                        TruthRange range)
      : args_(args), range_(range), first_(group * kGroupPriors) {
    const int64_t p = first_ + lane_index();
    real_ = p < args.num_priors;
    prior_ = real_ ? args.prior(b, p) : Vec4<T>{T(0), T(0), T(0), T(0)};
    area_ = args.rule.prior_area(prior_);
    group_ = first_ < args.num_priors ? args.image_groups(b)[group] : PriorGroup<T>::none();
  }

  // The best of truths [begin, end) for the lane's prior; as overlap and owner, -1: none. Nothing beyond the last group,
  // where none of the priors would be nearest.
  __device__ __forceinline__ void run(int64_t begin, int64_t end) {
    if (first_ >= args_.num_priors) return;
    for (int64_t base = begin; base < end; base += 32) chunk(base, end);
  }

  T best = T(0);
  int32_t owner = -1;

 private:
  // A lane a truth: which pairs matter, which the prior is nearest of those that it does not overlap.
  __device__ __forceinline__ void chunk(int64_t base, int64_t end) {
    const int64_t row = range_.begin + base + lane_index();
    const bool mine = base + lane_index() < end;
    bool decides = false;  // the pair may decide a code
    T bound = T(0);
    top_ = 0;
    if (mine) {
      bound = TruthBounds<T>(args_.rule, args_.truth(row)).of(group_, args_.rule.eps);
      decides = may_decide(bound, args_.rule.least_overlap());
      if (kKeeps && bound == T(0)) {
        top_ = TopKey::nothing(first_, args_.num_priors, args_.rule.tie_last);
      }
    }
    evaluate_all(base, __ballot_sync(kFullWarp, decides));
    if constexpr (kKeeps) {
      const bool open = mine && !decides && bound > T(0);
      const bool may_win = open && !(bound < TopKey::overlap(load_relaxed(args_.keys + row)));
      evaluate_all(base, __ballot_sync(kFullWarp, may_win));
      if (mine && top_ > load_relaxed(args_.keys + row)) atomicMax(args_.keys + row, top_);
    }
  }

  __device__ __forceinline__ void evaluate_all(int64_t base, unsigned lanes) {
    for (; lanes != 0; lanes &= lanes - 1) {
      const int lane = __ffs(static_cast<int>(lanes)) - 1;
      const Vec4<T> truth = args_.truth(range_.begin + base + lane);
      const T overlap = args_.rule.overlap(truth, args_.rule.truth_area(truth), prior_, area_);
      if (owner < 0 || args_.rule.replaces(overlap, best)) {
        best = overlap;
        owner = static_cast<int32_t>(base) + lane;
      }
      if constexpr (kKeeps) keep(lane, overlap);
    }
  }

  // The best of the group's overlaps with the truth of a lane.
  __device__ __forceinline__ void keep(int lane, T overlap) {
    const bool numbers = args_.rule.forced == Forced::kBipartite;
    const bool counts = real_ && !(numbers && overlap != overlap);
    const TopKey::Bits key =
        warp_top_key(counts ? ordered_key(overlap) : 0, first_, args_.rule.tie_last);
    if (lane == lane_index() && key > top_) top_ = key;
  }

  const MatchArgs<T>& args_;
  const TruthRange range_;
  const int64_t first_;  // prior of the group
  bool real_;
  Vec4<T> prior_;
  T area_;
  PriorGroup<T> group_;
  TopKey::Bits top_ = 0;  // of the truth of the lane, in this group
};

// How the work of match_kernel is cut. Powers of two as their logarithm: as divisors they were a third of its instructions.
struct MatchCut {
  static constexpr int kMostBits = 2;
  int part_bits;   // of the number of warps that share the truths of an image for one group
  unsigned tiles;  // of groups, in an image

  template <typename T>
  explicit MatchCut(const MatchProblem<T>& problem) : part_bits(0) {
    while (part_bits < kMostBits && problem.rows > (32 << part_bits) * problem.batch) ++part_bits;
    const int64_t groups = num_groups(problem.num_priors);
    tiles = static_cast<unsigned>(ceil_div<int64_t>(groups, kMatchWarps >> part_bits));
  }
};

// block = tile of groups, the last one first, * images + image; warp = group of the tile * parts + part of the truths.
// The second bound keeps ptxas from spilling around the division.
template <typename T, bool kKeeps>
__global__ void __launch_bounds__(kMatchBlock, sizeof(T) == 8 ? 3 : 4)
    match_kernel(const MatchArgs<T> args, MatchCut cut) {
  after_previous_kernel();
  __shared__ T bests[kMatchWarps][32];
  __shared__ int32_t owners[kMatchWarps][32];
  const unsigned warp = threadIdx.x / 32, parts = 1u << cut.part_bits, part = warp & (parts - 1);
  const unsigned images = static_cast<unsigned>(args.batch), from_last = blockIdx.x / images;
  const int64_t b = blockIdx.x - from_last * images;
  const unsigned tile = cut.tiles - 1 - from_last;  // groups < 2^26
  const int64_t group = tile * (kMatchWarps >> cut.part_bits) + (warp >> cut.part_bits);
  const TruthRange range = truth_range(args.offsets, b, args.rows);
  GroupMatch<T, kKeeps> match(args, b, group, range);
  const int bits = 5 + cut.part_bits;
  const int64_t each = (range.count + (1 << bits) - 1) >> bits << 5, begin = part * each;
  match.run(begin, begin + each < range.count ? begin + each : range.count);
  if (parts > 1) {
    bests[warp][lane_index()] = match.best;
    owners[warp][lane_index()] = match.owner;
    __syncthreads();
    for (unsigned w = warp + 1; part == 0 && w < warp + parts; ++w) {
      const T best = bests[w][lane_index()];
      const int32_t owner = owners[w][lane_index()];
      if (owner < 0 || (match.owner >= 0 && !args.rule.replaces(best, match.best))) continue;
      match.best = best;
      match.owner = owner;
    }
  }
  const int64_t p = group * kGroupPriors + lane_index();
  if (part != 0 || p >= args.num_priors) return;
  const int64_t row = b * args.num_priors + p;
  args.codes[row] = args.rule.code(match.best, match.owner);
  if (args.rule.forced == Forced::kBipartite) args.holders[row] = kBackground;
}

template <typename T>
inline cudaError_t launch_match(const MatchArgs<T>& args, const MatchPlan& plan,
                                cudaStream_t stream) {
  if constexpr (MatchArgs<T>::kKeys) {
    if (plan.blocks > 0) return launch_cluster_match(args, plan, stream);
  }
  const bool forced = args.rule.forced != Forced::kNone;
  const int64_t blocks = ceil_div<int64_t>(args.num_priors, kMatchBlock);
  const dim3 block(kMatchBlock);
  cudaError_t error = launch(
      group_kernel<T>, dim3(static_cast<unsigned>((args.per_image ? args.batch : 1) * blocks)),
      block, 0, stream, args);
  if (error != cudaSuccess) return error;
  auto match = match_kernel<T, false>;
  if constexpr (MatchArgs<T>::kKeys) {
    if (forced) match = match_kernel<T, true>;
  }
  const MatchCut cut(args);
  error = launch(match, dim3(static_cast<unsigned>(args.batch) * cut.tiles), block, 0, stream, args,
                 cut);
  return error == cudaSuccess && forced ? launch_force(args, stream) : error;
}

}  // namespace ssd_cuda
