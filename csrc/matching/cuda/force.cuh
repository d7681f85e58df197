// The matches that ground truths are owed whatever their IoU, left in codes before match_kernel fills the rest.
//
//   best_kernel   one warp a truth, or several where there are few: its best prior (search.cuh). argmax: claims it
//                 by atomicMax(code, truth), so the last truth wins. bipartite: leaves it in tops.
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

// Warps that share the search for one truth's best prior, a part of the groups each. A search is a chain of dependent
// steps: with one warp a truth, 224 truths took 18.4 us on an H200, whose schedulers had nothing to do in 83% of the
// cycles; with eight 8.4. From kBusyWarps on they have enough.
inline int search_warps(int64_t truths) {
  constexpr int64_t kBusyWarps = 8192;
  int warps = kMatchWarps;
  while (warps > 1 && truths * warps > kBusyWarps) warps /= 2;
  return warps;
}

// The truth of a warp, by the whole warp. row: -1 where there is none.
template <typename T>
struct WarpTruth {
  int64_t row = -1, image = 0, index = 0;  // index: in the image

  __device__ __forceinline__ WarpTruth(const MatchArgs<T>& args, int64_t wanted) {
    if (wanted >= args.rows) return;
    image = image_of(args, wanted);
    if (image >= args.batch) return;
    const TruthRange range = truth_range(args.offsets, image, args.rows);
    if (!range.contains(wanted)) return;
    row = wanted;
    index = wanted - range.begin;
  }
};

// The second bound keeps ptxas from spilling around the division. warps: search_warps(), a power of two.
template <typename T, Forced kForced>
__global__ void __launch_bounds__(kMatchBlock, 2) best_kernel(const MatchArgs<T> args, int warps) {
  __shared__ T bounds[kMatchWarps][kSpan<T>];
  __shared__ BestPrior<T> found[kMatchWarps];
  const int warp = static_cast<int>(threadIdx.x / 32), part = warp % warps;
  const WarpTruth<T> at(args, int64_t{blockIdx.x} * (kMatchWarps / warps) + warp / warps);
  BestPrior<T> top{T(0), -1};
  bool takes_part = false;
  if (at.row >= 0) {
    const Vec4<T> truth = args.truth(at.row);
    takes_part = args.rule.takes_part(truth);
    if (takes_part) {
      constexpr bool kNumbers = kForced == Forced::kBipartite;
      const auto counts = [](int64_t, T overlap) { return !kNumbers || overlap == overlap; };
      top = search_prior(args, at.image, truth, kNumbers ? args.rule.forced_min : T(-1),
                         bounds[warp], counts, part, warps);
    }
  }
  if (warps > 1) {
    if (lane_index() == 0) found[warp] = top;
    __syncthreads();
    for (int w = 1; part == 0 && w < warps; ++w) top.merge(found[warp + w], args.rule.tie_last);
  }
  if (part != 0 || lane_index() != 0 || at.row < 0) return;
  if constexpr (kForced == Forced::kArgmax) {
    if (!takes_part) return;
    const int32_t g = static_cast<int32_t>(at.index);
    const int64_t prior = at.image * args.num_priors + top.prior;
    if (args.rule.is_forced(top.overlap)) atomicMax(&args.codes[prior], g);
    if (args.rule.relabels()) atomicMax(&args.renames[prior], g);
  } else {
    args.tops[at.row] = top;
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
  const int warps = search_warps(args.rows);
  const int64_t blocks = ceil_div<int64_t>(args.rows, kMatchWarps / warps);
  const dim3 block(kMatchBlock);
  const cudaError_t error =
      launch(best, dim3(static_cast<unsigned>(blocks)), block, 0, stream, args, warps);
  if (error != cudaSuccess || !pairs) return error;
  return launch(pair_kernel<T>, dim3(static_cast<unsigned>(args.batch)), block, 0, stream, args);
}

}  // namespace ssd_cuda
