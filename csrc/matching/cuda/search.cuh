// The search of one warp for the best prior of a truth.
//
// 32 groups at once: their bounds, kept in shared memory. Each lane remembers its best group; the best of
// these are evaluated first, until none can reach what the search has found (reached). By then nearly all
// others cannot either; those that can are evaluated in the order they come. The result is the best of all
// priors in whatever order: reached only says which groups need no look.
#pragma once

#include "match_args.cuh"

namespace ssd_cuda {

// Counts: counts(prior, overlap) says whether a prior counts.
template <typename T, typename Counts>
class PriorSearch {
 public:
  // No overlap below reached is wanted. bounds: [kSpan<T>], of this warp alone.
  __device__ __forceinline__ PriorSearch(const MatchArgs<T>& args, int64_t b, Vec4<T> truth,
                                         T reached, const Counts& counts, T* bounds)
      : args_(args),
        b_(b),
        truth_(truth),
        area_(args.rule.truth_area(truth)),
        bounded_(is_bounded_truth(truth, area_)),
        reached_(reached),
        counts_(counts),
        bounds_(bounds) {}

  __device__ __forceinline__ BestPrior<T> run() {
    const int32_t count = static_cast<int32_t>(num_groups(args_.num_priors));
    for (int32_t begin = 0; begin < count; begin += kSpan<T>) {
      span(begin, count - begin < kSpan<T> ? count - begin : kSpan<T>);
    }
    if (zeros_ >= 0) take_zeros();
    return warp_best(mine_, args_.rule.tie_last);
  }

 private:
  static constexpr T kDone = T(-2);  // a bound below every overlap

  static __device__ __forceinline__ int lowest(unsigned lanes) {
    return __ffs(static_cast<int>(lanes)) - 1;
  }

  __device__ __forceinline__ void span(int32_t begin, int32_t count) {
    const int lane = lane_index();
    T first_bound = T(0);
    int32_t first = 0;
    for (int32_t i = lane; i < count; i += 32) {
      const PriorGroup<T> group = args_.image_groups(b_)[begin + i];
      const T bound = bounded_ ? group.overlap_bound(truth_, area_, args_.rule.eps) : T(NAN);
      if (bound > first_bound) first_bound = bound, first = i;
      if (bound == T(0) && (zeros_ < 0 || args_.rule.tie_last)) zeros_ = begin + i;
      bounds_[i] = bound == T(0) ? kDone : bound;
    }
    while (true) {
      const T bound = warp_top(first_bound);
      if (!(bound > T(0) && bound >= reached_)) break;
      const int holder = lowest(__ballot_sync(kFullWarp, first_bound == bound));
      if (lane == holder) first_bound = T(0), bounds_[first] = kDone;
      evaluate(begin + __shfl_sync(kFullWarp, first, holder));
    }
    for (int32_t i = lane; i - lane < count; i += 32) {
      const T bound = i < count ? bounds_[i] : kDone;
      bool open = bound != kDone;
      while (true) {
        const bool may_win = open && !(bound < reached_);  // also: no bound is known
        const unsigned holders = __ballot_sync(kFullWarp, may_win);
        if (holders == 0) break;
        const int holder = lowest(holders);
        if (lane == holder) open = false;
        evaluate(begin + i - lane + holder);
      }
    }
  }

  // Where all overlaps of groups are 0, the nearest prior of the nearest of them stands for all.
  __device__ __forceinline__ void take_zeros() {
    const int64_t begin = zeros_ * int64_t{kGroupPriors}, end = begin + kGroupPriors;
    const int64_t last = (end < args_.num_priors ? end : args_.num_priors) - 1;
    const int64_t p = args_.rule.tie_last ? last : begin;
    if (counts_(p, T(0))) mine_.merge({T(0), static_cast<IndexOf<T>>(p)}, args_.rule.tie_last);
  }

  __device__ __forceinline__ void evaluate(int32_t g) {
    const int64_t p = g * int64_t{kGroupPriors} + lane_index();
    T seen = reached_;
    if (p < args_.num_priors) {
      const Vec4<T> prior = args_.prior(b_, p);
      const T overlap = args_.rule.overlap(truth_, area_, prior, args_.rule.prior_area(prior));
      if (!(overlap < reached_) && counts_(p, overlap)) {
        mine_.merge({overlap, static_cast<IndexOf<T>>(p)}, args_.rule.tie_last);
        seen = max_of(overlap, reached_);
      }
    }
    reached_ = warp_top(seen);
  }

  const MatchArgs<T>& args_;
  const int64_t b_;
  const Vec4<T> truth_;
  const T area_;
  const bool bounded_;
  T reached_;
  const Counts& counts_;
  T* const bounds_;
  int32_t zeros_ = -1;  // the nearest group of the lane whose overlaps are all 0
  BestPrior<T> mine_{T(0), -1};
};

template <typename T, typename Counts>
__device__ __forceinline__ BestPrior<T> search_prior(const MatchArgs<T>& args, int64_t b,
                                                     Vec4<T> truth, T reached, T* bounds,
                                                     const Counts& counts) {
  return PriorSearch<T, Counts>(args, b, truth, reached, counts, bounds).run();
}

}  // namespace ssd_cuda
