// The matches that ground truths are owed whatever their IoU, left in codes before match_kernel fills the rest.
//
//   best_kernel   one warp a truth: its best prior (search.cuh). argmax: claims it by atomicMax(code, truth),
//                 so the last truth wins. bipartite: leaves it in tops.
//   pair_kernel   one block an image: the largest overlap among free truths and free priors makes a pair, again
//                 and again. Truths and priors agree on which pair is better, so deferred acceptance finds
//                 the same pairs, all truths at once: each proposes to its best prior, a prior keeps the best
//                 proposal, and who is refused or driven out searches among the priors that would prefer it.
//
// No order of arrival changes the result: claims are maxima, and the outcome of deferred acceptance under a strict
// order is unique. Reads 16 B a truth, 32 B a group of 32 priors and truth, and 16 B a prior of the groups that
// are evaluated; writes 4 B a truth (argmax), 12 B (bipartite).
#pragma once

#include "search.cuh"

namespace ssd_cuda {

// The second bound keeps ptxas from spilling around the division.
template <typename T, Forced kForced>
__global__ void __launch_bounds__(kMatchBlock, 2) best_kernel(const MatchArgs<T> args) {
  __shared__ T shared_bounds[kMatchWarps][kSpan<T>];
  T* const bounds = shared_bounds[threadIdx.x / 32];
  const int64_t row = int64_t{blockIdx.x} * kMatchWarps + threadIdx.x / 32;
  if (row >= args.rows) return;
  const int64_t b = image_of(args, row);
  if (b >= args.batch) return;
  const TruthRange range = truth_range(args.offsets, b, args.rows);
  if (!range.contains(row)) return;
  const Vec4<T> truth = args.truth(row);
  BestPrior<T> top{T(0), -1};
  if constexpr (kForced == Forced::kArgmax) {
    if (!args.rule.takes_part(truth)) return;
    top = search_prior(args, b, truth, T(-1), bounds, [](int64_t, T) { return true; });
    if (lane_index() != 0) return;
    const int32_t g = static_cast<int32_t>(row - range.begin);
    const int64_t prior = b * args.num_priors + top.prior;
    if (args.rule.is_forced(top.overlap)) atomicMax(&args.codes[prior], g);
    if (args.rule.relabels()) atomicMax(&args.renames[prior], g);
  } else {
    if (args.rule.takes_part(truth)) {
      const auto is_number = [](int64_t, T overlap) { return overlap == overlap; };
      top = search_prior(args, b, truth, args.rule.forced_min, bounds, is_number);
    }
    if (lane_index() == 0) args.tops[row] = top;
  }
}

// One image of bipartite matching. codes[p] is the truth that holds prior p.
template <typename T>
struct PairTable {
  const MatchArgs<T>& args;
  int64_t b;
  TruthRange range;

  __device__ __forceinline__ int32_t* codes() const { return args.codes + b * args.num_priors; }
  __device__ __forceinline__ BestPrior<T>* tops() const { return args.tops + range.begin; }

  // Whether it is the best prior of a truth that has not given up.
  __device__ __forceinline__ bool may_pair(BestPrior<T> top) const {
    return top.prior >= 0 && top.overlap > args.rule.forced_min;
  }

  // Whether prior top.prior prefers truth g, which overlaps it by top.overlap, to its holder.
  __device__ __forceinline__ bool prefers(BestPrior<T> top, int32_t g, int32_t holder) const {
    if (holder < 0) return true;
    Pair<T> best{{tops()[holder].overlap, top.prior}, holder};
    best.merge({top, g}, args.rule.tie_last);
    return best.truth == g;
  }

  // Of a truth that holds its prior already: changes nothing.
  __device__ __forceinline__ void propose(int32_t g) const {
    const BestPrior<T> top = tops()[g];
    int32_t holder = kBackground;
    while (may_pair(top) && prefers(top, g, holder)) {
      const int32_t found = atomicCAS(&codes()[top.prior], holder, g);
      if (found == holder) break;
      holder = found;
    }
  }

  // By a warp, for a truth that was refused or driven out: the best prior that prefers it to its holder.
  // Whether there is one.
  __device__ __forceinline__ bool search(int32_t g, T* bounds) const {
    const BestPrior<T> refused = tops()[g];
    __syncwarp();  // every lane has read what the first replaces
    if (!may_pair(refused) || codes()[refused.prior] == g) return false;
    const auto is_open = [&](int64_t p, T overlap) {
      const BestPrior<T> top{overlap, static_cast<IndexOf<T>>(p)};
      return overlap == overlap && prefers(top, g, codes()[p]);
    };
    const BestPrior<T> top =
        search_prior(args, b, args.truth(range.begin + g), args.rule.forced_min, bounds, is_open);
    if (lane_index() == 0) tops()[g] = top;
    return may_pair(top);
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchBlock, 2) pair_kernel(const MatchArgs<T> args) {
  __shared__ T bounds[kMatchWarps][kSpan<T>];
  const int64_t b = blockIdx.x;
  const PairTable<T> table{args, b, truth_range(args.offsets, b, args.rows)};
  const int32_t count = static_cast<int32_t>(table.range.count);
  const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
  bool proposals = true;
  while (__syncthreads_or(proposals)) {
    for (int32_t g = static_cast<int32_t>(threadIdx.x); g < count; g += kMatchBlock) {
      table.propose(g);
    }
    __syncthreads();
    proposals = false;
    for (int32_t g = warp; g < count; g += kMatchWarps) proposals |= table.search(g, bounds[warp]);
  }
}

template <typename T>
inline cudaError_t launch_force(const MatchArgs<T>& args, cudaStream_t stream) {
  const bool pairs = args.rule.forced == Forced::kBipartite;
  const auto best = pairs ? best_kernel<T, Forced::kBipartite> : best_kernel<T, Forced::kArgmax>;
  const int64_t blocks = ceil_div<int64_t>(args.rows, kMatchWarps);
  const dim3 block(kMatchBlock);
  const cudaError_t error =
      launch(best, dim3(static_cast<unsigned>(blocks)), block, 0, stream, args);
  if (error != cudaSuccess || !pairs) return error;
  return launch(pair_kernel<T>, dim3(static_cast<unsigned>(args.batch)), block, 0, stream, args);
}

}  // namespace ssd_cuda
