// What the kernels of matching share: their arguments, and the work of one warp.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/ordered_key.h"
#include "matching/matching_rule.h"
#include "matching/prior_group.h"

namespace ssd_cuda {

constexpr int kMatchBlock = 256;
constexpr int kMatchWarps = kMatchBlock / 32;
constexpr int kGroupPriors = 32;  // a warp evaluates a group at once
template <typename T>
constexpr int kSpan = 2048 / sizeof(T);  // groups that a search orders by bound
constexpr unsigned kFullWarp = 0xffffffffu;

SSD_HOST_DEVICE int64_t num_groups(int64_t priors) {
  return (priors + kGroupPriors - 1) / kGroupPriors;
}

template <typename T>
struct MatchArgs : MatchProblem<T> {
  PriorGroup<T>* groups;  // [groups], or [batch, groups] where per_image
  BestPrior<T>* tops;     // of bipartite matching: [rows]
  int32_t* renames;       // where rule.relabels(): [batch, num_priors]

  // take: see common/cuda/workspace.h
  template <typename Take>
  MatchArgs(const MatchProblem<T>& problem, const Take& take)
      : MatchProblem<T>(problem),
        groups(take((problem.per_image ? problem.batch : 1) * num_groups(problem.num_priors),
                    PriorGroup<T>{})),
        tops(take(problem.rule.forced == Forced::kBipartite ? problem.rows : 0, BestPrior<T>{})),
        renames(take(problem.rule.relabels() ? problem.batch * problem.num_priors : 0, int32_t{})) {
  }

  __device__ __forceinline__ Vec4<T> truth(int64_t row) const { return this->boxes[row]; }
  __device__ __forceinline__ Vec4<T> prior(int64_t b, int64_t p) const {
    return this->rule.corners(this->priors[(this->per_image ? b * this->num_priors : 0) + p]);
  }
  __device__ __forceinline__ PriorGroup<T>* image_groups(int64_t b) const {
    return groups + (this->per_image ? b * num_groups(this->num_priors) : 0);
  }
};

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % 32); }

// A value of the warp, the same for every lane: the largest where none is below 0 and none is NaN.
template <typename T>
__device__ __forceinline__ T warp_top(T value) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bits top = bit_copy<Bits>(value);  // numbers from 0 on have the order of their bits
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  constexpr bool kReduce = false;
#else
  constexpr bool kReduce = sizeof(T) == 4;
#endif
  if constexpr (kReduce) {
    top = __reduce_max_sync(kFullWarp, top);
  } else {
    for (int delta = 16; delta > 0; delta /= 2) {
      const Bits other = __shfl_xor_sync(kFullWarp, top, delta);
      top = other > top ? other : top;
    }
  }
  return bit_copy<T>(top);
}

// The group of the warp's priors, for every lane.
template <typename T>
__device__ __forceinline__ PriorGroup<T> warp_group(PriorGroup<T> group) {
  for (int delta = 16; delta > 0; delta /= 2) {
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

// The image whose truths include the row, by a whole warp; batch or a wrong one where no image does.
template <typename T>
__device__ __forceinline__ int64_t image_of(const MatchArgs<T>& args, int64_t row) {
  int64_t image = 0;
  for (int64_t base = 0; base < args.batch; base += 32) {
    const int64_t i = base + lane_index();
    image += __popc(__ballot_sync(kFullWarp, i < args.batch && args.offsets[i + 1] <= row));
  }
  return image;
}

}  // namespace ssd_cuda
