// What the kernels of matching share: their arguments, and the work of one warp.
#pragma once

#include "common/cuda/warp_reduce.cuh"
#include "common/math/ordered_key.h"
#include "matching/matching_rule.h"
#include "matching/prior_group.h"

namespace ssd_cuda {

constexpr int kMatchBlock = 256;
constexpr int kMatchWarps = kMatchBlock / 32;
constexpr int kGroupPriors = 32;  // a warp evaluates a group at once
template <typename T>
constexpr int kSpan = 2048 / sizeof(T);  // groups that a search orders by bound
SSD_HOST_DEVICE int64_t num_groups(int64_t priors) {
  return (priors + kGroupPriors - 1) / kGroupPriors;
}

// The best prior of a truth as one number, so that the better of two is the larger: its overlap, then how near it comes
// in the order of ties. 0: none yet.
struct TopKey {
  using Bits = unsigned long long;

  static __device__ __forceinline__ Bits of(uint32_t ordered_overlap, int64_t prior,
                                            bool tie_last) {
    const auto p = static_cast<uint32_t>(prior);
    return Bits{ordered_overlap} << 32 | (tie_last ? p + 1 : ~p);
  }
  // NaN where there is none.
  static __device__ __forceinline__ float overlap(Bits key) {
    return key_value<float>(static_cast<uint32_t>(key >> 32));
  }
  static __device__ __forceinline__ BestPrior<float> best(Bits key, bool tie_last) {
    if (key == 0) return {0.0f, -1};
    const auto low = static_cast<uint32_t>(key);
    return {overlap(key), static_cast<int32_t>(tie_last ? low - 1 : ~low)};
  }
  // Of a truth that overlaps none of the priors of a group.
  static __device__ __forceinline__ Bits nothing(int64_t first, int64_t num_priors, bool tie_last) {
    const int64_t end = first + kGroupPriors;
    const int64_t last = (end < num_priors ? end : num_priors) - 1;
    return of(ordered_key(0.0f), tie_last ? last : first, tie_last);
  }
};

// How a problem is matched: in clusters of so many blocks by one kernel, or, 0, by three kernels (match_plan()).
struct MatchPlan {
  unsigned blocks = 0, threads = 0;
  int block_bits = 0;  // the logarithm of blocks
  int slots = 0;       // groups of a block, at most
  std::size_t shared_bytes = 0;
};

template <typename T>
struct MatchArgs : MatchProblem<T> {
  // Whether match_kernel finds the best priors of truths. A key of double would not fit in an atomic operation.
  static constexpr bool kKeys = sizeof(T) == 4;

  PriorGroup<T>* groups;  // [groups], or [batch, groups] where per_image
  TopKey::Bits* keys;     // where forced and kKeys: [rows]
  BestPrior<T>* tops;     // where forced: [rows]
  int32_t* holders;  // of bipartite matching: [batch, num_priors], the truth that holds a prior

  // take: see common/cuda/workspace.h. Clusters want no memory.
  template <typename Take>
  MatchArgs(const MatchProblem<T>& problem, const MatchPlan& how, const Take& take)
      : MatchProblem<T>(problem),
        groups(take(how.blocks > 0
                        ? 0
                        : (problem.per_image ? problem.batch : 1) * num_groups(problem.num_priors),
                    PriorGroup<T>{})),
        keys(take(owes(problem, how) && kKeys ? problem.rows : 0, TopKey::Bits{})),
        tops(take(owes(problem, how) ? problem.rows : 0, BestPrior<T>{})),
        holders(
            take(problem.rule.forced == Forced::kBipartite ? problem.batch * problem.num_priors : 0,
                 int32_t{})) {}

  static bool owes(const MatchProblem<T>& problem, const MatchPlan& how) {
    return problem.rule.forced != Forced::kNone && how.blocks == 0;
  }
  __device__ __forceinline__ Vec4<T> truth(int64_t row) const { return this->boxes[row]; }
  __device__ __forceinline__ const Vec4<T>* image_priors(int64_t b) const {
    return this->priors + (this->per_image ? b * this->num_priors : 0);
  }
  __device__ __forceinline__ Vec4<T> prior(int64_t b, int64_t p) const {
    return this->rule.corners(image_priors(b)[p]);
  }
  __device__ __forceinline__ PriorGroup<T>* image_groups(int64_t b) const {
    return groups + (this->per_image ? b * num_groups(this->num_priors) : 0);
  }
};

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % 32); }

// A value of the warp, the same for every lane: the largest where none is below 0 and none is NaN, since numbers from 0
// on have the order of their bits.
template <typename T>
__device__ __forceinline__ T warp_top(T value) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  return bit_copy<T>(warp_largest_bits(bit_copy<Bits>(value)));
}

// A truth as the bounds of its overlaps see it.
template <typename T>
struct TruthBounds {
  Vec4<T> truth;
  T area;
  bool bounded;
  T otherwise;  // of an unbounded truth: NaN, nothing is known; below 0 where it takes no part

  __device__ __forceinline__ TruthBounds(const MatchRule<T>& rule, Vec4<T> box)
      : truth(box),
        area(rule.truth_area(box)),
        bounded(is_bounded_truth(box, area)),
        otherwise(rule.takes_part(box) ? T(NAN) : T(-1)) {}

  // The most that it overlaps a prior of the group: exactly 0 where it overlaps none.
  __device__ __forceinline__ T of(const PriorGroup<T>& group, T eps) const {
    return bounded ? group.overlap_bound(truth, area, eps) : otherwise;
  }
};
// Whether such a pair may decide a prior's code. least: rule.least_overlap()
template <typename T>
__device__ __forceinline__ bool may_decide(T bound, T least) {
  return !(bound < T(0)) && !(bound < least);
}

// The best of the overlaps of a warp's priors with a truth, for every lane; 0 where none counts. ordered: of the lane's
// overlap, 0 where it does not count; first: the prior of lane 0.
__device__ __forceinline__ TopKey::Bits warp_top_key(uint32_t ordered, int64_t first,
                                                     bool tie_last) {
  const uint32_t most = warp_largest_bits(ordered);
  const unsigned holders = __ballot_sync(kFullWarp, ordered == most);
  const int nearest =
      tie_last ? 31 - __clz(static_cast<int>(holders)) : __ffs(static_cast<int>(holders)) - 1;
  return most == 0 ? 0 : TopKey::of(most, first + nearest, tie_last);
}

// The group of the priors of kLanes neighbouring lanes, for each of them.
template <int kLanes = 32, typename T>
__device__ __forceinline__ PriorGroup<T> warp_group(PriorGroup<T> group) {
  for (int delta = kLanes / 2; delta > 0; delta /= 2) {
    const auto other = [&](T value) { return __shfl_xor_sync(kFullWarp, value, delta); };
    const PriorGroup<T> theirs{
        {other(group.box.x), other(group.box.y), other(group.box.z), other(group.box.w)},
        other(group.area_min),
        other(group.area_max)};
    group.merge(theirs);
  }
  return group;
}

// The best that a lane of the warp holds, for every lane.
template <typename T>
__device__ __forceinline__ BestPrior<T> warp_best(BestPrior<T> best, bool tie_last) {
  for (int delta = 16; delta > 0; delta /= 2) {
    best.merge({__shfl_xor_sync(kFullWarp, best.overlap, delta),
                __shfl_xor_sync(kFullWarp, best.prior, delta)},
               tie_last);
  }
  return best;
}

}  // namespace ssd_cuda
