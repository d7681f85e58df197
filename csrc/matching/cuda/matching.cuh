// Matching of ragged ground truth with priors, without an IoU matrix. Four kernels, one after the other:
//
//   group_kernel   codes to -1; of every 32 priors the box around them and the range of their areas
//   best_kernel    best prior of each truth, which claims it where forced is argmax   (force.cuh)
//   pair_kernel    where forced is bipartite: pairs of truths and priors              (force.cuh)
//   match_kernel   codes of the priors that are not claimed, by threshold
//
// A group bounds the overlap of all of its priors with a truth (prior_group.h), 32 groups or 32 truths by one
// warp at once, and only those that can matter are evaluated: in match_kernel the truths that can reach the
// threshold, in best_kernel the groups that can reach the best overlap so far. Nothing is pruned where a bad
// box or a threshold of 0 makes every pair matter: the same kernels, slower.
//
// match_kernel: one thread a prior, one warp a group, truths in the order of their index. Reads 16 B a prior,
// 16 B a truth per warp (of L1), 4 B of claims; writes 4 B a prior. Results do not depend on the order of
// arrival. No host sync: the offsets stay on the card. Bounds: priors < 2^31, truths of an image < 2^31.
#pragma once

#include "force.cuh"
#include "match_args.cuh"

namespace ssd_cuda {

// The grid of a kernel with one thread a prior: block = image * blocks of an image + tile of priors.
template <typename T>
struct PriorThread {
  int64_t b, p;
  bool real;

  __device__ __forceinline__ explicit PriorThread(const MatchArgs<T>& args) {
    const unsigned blocks =
        static_cast<unsigned>(ceil_div<int64_t>(args.num_priors, kMatchBlock));  // < 2^23
    b = blockIdx.x / blocks;
    p = int64_t{blockIdx.x % blocks} * kMatchBlock + threadIdx.x;
    real = p < args.num_priors;
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchBlock) group_kernel(const MatchArgs<T> args) {
  const PriorThread<T> at(args);
  if (at.real && args.rule.forced != Forced::kNone) {
    args.codes[at.b * args.num_priors + at.p] = kBackground;
    if (args.rule.relabels()) args.renames[at.b * args.num_priors + at.p] = kBackground;
  }
  if (at.b > 0 && !args.per_image) return;
  PriorGroup<T> own = PriorGroup<T>::none();
  if (at.real) {
    const Vec4<T> prior = args.prior(at.b, at.p);
    own = PriorGroup<T>::of(prior, args.rule.prior_area(prior));
  }
  const PriorGroup<T> group = warp_group(own);
  if (at.real && lane_index() == 0) args.image_groups(at.b)[at.p / kGroupPriors] = group;
}

// By a whole warp, whose lanes test 32 truths at once against its group.
template <typename T>
__device__ __forceinline__ int32_t code_by_threshold(const MatchArgs<T>& args, PriorThread<T> at) {
  const Vec4<T> prior = at.real ? args.prior(at.b, at.p) : Vec4<T>{T(0), T(0), T(0), T(0)};
  const T area = args.rule.prior_area(prior), least = args.rule.least_overlap();
  const int64_t group_index = at.p / kGroupPriors;
  const PriorGroup<T> group = group_index < num_groups(args.num_priors)
                                  ? args.image_groups(at.b)[group_index]
                                  : PriorGroup<T>::none();
  const TruthRange range = truth_range(args.offsets, at.b, args.rows);
  const int32_t count = static_cast<int32_t>(range.count);
  T best = T(0);
  int32_t owner = -1;
  for (int32_t base = 0; base < count; base += 32) {
    const int32_t mine = base + lane_index();
    bool matters = false;
    if (mine < count) {
      const Vec4<T> truth = args.truth(range.begin + mine);
      const T truth_area = args.rule.truth_area(truth);
      matters = is_bounded_truth(truth, truth_area)
                    ? !(group.overlap_bound(truth, truth_area, args.rule.eps) < least)
                    : args.rule.takes_part(truth);
    }
    for (unsigned left = __ballot_sync(kFullWarp, matters); left != 0; left &= left - 1) {
      const int32_t i = base + __ffs(static_cast<int>(left)) - 1;
      const Vec4<T> truth = args.truth(range.begin + i);
      const T overlap = args.rule.overlap(truth, args.rule.truth_area(truth), prior, area);
      if (owner < 0 || args.rule.replaces(overlap, best)) {
        best = overlap;
        owner = i;
      }
    }
  }
  return args.rule.code(best, owner);
}

template <typename T>
__global__ void __launch_bounds__(kMatchBlock) match_kernel(const MatchArgs<T> args) {
  const PriorThread<T> at(args);
  int32_t code = code_by_threshold(args, at);
  if (!at.real) return;
  const int64_t row = at.b * args.num_priors + at.p;
  if (args.rule.forced != Forced::kNone && args.codes[row] >= 0) code = args.codes[row];
  if (args.rule.relabels() && code >= 0 && args.renames[row] >= 0) code = args.renames[row];
  args.codes[row] = code;
}

template <typename T>
inline cudaError_t launch_match(const MatchArgs<T>& args, cudaStream_t stream) {
  const bool forced = args.rule.forced != Forced::kNone;
  const int64_t blocks = ceil_div<int64_t>(args.num_priors, kMatchBlock);
  const int64_t grouped = forced || args.per_image || args.batch == 0 ? args.batch : 1;
  const dim3 block(kMatchBlock);
  cudaError_t error = launch(group_kernel<T>, dim3(static_cast<unsigned>(grouped * blocks)), block,
                             0, stream, args);
  if (error == cudaSuccess && forced) error = launch_force(args, stream);
  if (error != cudaSuccess) return error;
  return launch(match_kernel<T>, dim3(static_cast<unsigned>(args.batch * blocks)), block, 0, stream,
                args);
}

}  // namespace ssd_cuda
