// The matches that ground truths are owed whatever their IoU, put into the codes that match_kernel left. A block an image.
//
//   claim_kernel  argmax: each truth claims its best prior; of several the last truth wins
//   pair_kernel   bipartite: the largest overlap among free truths and free priors makes a pair, again
//                 and again. Truths and priors agree on which pair is better, so deferred acceptance finds
//                 the same pairs, all truths at once: each proposes to its best prior, a prior keeps the best
//                 proposal, and who is refused or driven out searches among the priors that would prefer it.
//
// No order of arrival changes the result: claims are maxima, and the outcome of deferred acceptance under a strict
// order is unique. Reads and writes 16 B a truth and 4 B of codes; a search reads 32 B a group of 32 priors and 16 B a prior
// of the groups that are evaluated. In double, where match_kernel leaves no keys, each truth is searched for.
#pragma once

#include "search.cuh"

namespace ssd_cuda {

// Fills tops of the truths of image b.
template <typename T>
__device__ __forceinline__ void find_tops(const MatchArgs<T>& args, int64_t b, TruthRange range,
                                          T (*bounds)[kSpan<T>]) {  // [kMatchWarps]
  BestPrior<T>* const tops = args.tops + range.begin;
  if constexpr (MatchArgs<T>::kKeys) {
    for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
      tops[g] = TopKey::best(args.keys[range.begin + g], args.rule.tie_last);
    }
  } else {
    const bool numbers = args.rule.forced == Forced::kBipartite;
    const auto counts = [&](int64_t, T overlap) { return !numbers || overlap == overlap; };
    const int warp = static_cast<int>(threadIdx.x) / 32;
    for (int64_t g = warp; g < range.count; g += kMatchWarps) {
      const Vec4<T> truth = args.truth(range.begin + g);
      BestPrior<T> top{T(0), -1};
      if (args.rule.takes_part(truth)) {
        top = search_prior(args, b, truth, numbers ? args.rule.forced_min : T(-1), bounds[warp],
                           counts);
      }
      if (lane_index() == 0) tops[g] = top;
    }
  }
  __syncthreads();
}

// codes[p] of every prior that a truth claims becomes the last of these truths. claims(top): whether this one does.
template <typename T, typename Claims>
__device__ __forceinline__ void claim(const BestPrior<T>* tops, int64_t count, int32_t* codes,
                                      const Claims& claims) {
  for (int64_t g = threadIdx.x; g < count; g += kMatchBlock) {
    if (claims(tops[g])) atomicMin(&codes[tops[g].prior], kBackground);  // below every truth
  }
  __syncthreads();
  for (int64_t g = threadIdx.x; g < count; g += kMatchBlock) {
    if (claims(tops[g])) atomicMax(&codes[tops[g].prior], static_cast<int32_t>(g));
  }
  __syncthreads();
}

template <typename T>
__global__ void __launch_bounds__(kMatchBlock, 2) claim_kernel(const MatchArgs<T> args) {
  after_previous_kernel();
  __shared__ T bounds[MatchArgs<T>::kKeys ? 1 : kMatchWarps][kSpan<T>];
  const int64_t b = blockIdx.x;
  const TruthRange range = truth_range(args.offsets, b, args.rows);
  BestPrior<T>* const tops = args.tops + range.begin;
  int32_t* const codes = args.codes + b * args.num_priors;
  find_tops(args, b, range, bounds);
  claim(tops, range.count, codes,
        [&](BestPrior<T> top) { return top.prior >= 0 && args.rule.is_forced(top.overlap); });
  if (!args.rule.relabels()) return;
  // Where the prior is matched to a truth, whose else it would be does not matter.
  for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
    if (tops[g].prior >= 0 && codes[tops[g].prior] < 0) tops[g].prior = -1;
  }
  __syncthreads();
  claim(tops, range.count, codes, [](BestPrior<T> top) { return top.prior >= 0; });
}

// One image of bipartite matching.
template <typename T>
struct PairTable {
  const MatchArgs<T>& args;
  int64_t b;
  TruthRange range;

  __device__ __forceinline__ int32_t* holders() const { return args.holders + b * args.num_priors; }
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
      const int32_t found = atomicCAS(&holders()[top.prior], holder, g);
      if (found == holder) break;
      holder = found;
    }
  }

  // By a warp, for a truth that was refused or driven out: the best prior that prefers it to its holder.
  // Whether there is one.
  __device__ __forceinline__ bool search(int32_t g, T* bounds) const {
    const BestPrior<T> refused = tops()[g];
    __syncwarp();  // every lane has read what the first replaces
    if (!may_pair(refused) || holders()[refused.prior] == g) return false;
    const auto is_open = [&](int64_t p, T overlap) {
      const BestPrior<T> top{overlap, static_cast<IndexOf<T>>(p)};
      return overlap == overlap && prefers(top, g, holders()[p]);
    };
    const BestPrior<T> top =
        search_prior(args, b, args.truth(range.begin + g), args.rule.forced_min, bounds, is_open);
    if (lane_index() == 0) tops()[g] = top;
    return may_pair(top);
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchBlock, 2) pair_kernel(const MatchArgs<T> args) {
  after_previous_kernel();
  __shared__ T bounds[kMatchWarps][kSpan<T>];
  const int64_t b = blockIdx.x;
  const PairTable<T> table{args, b, truth_range(args.offsets, b, args.rows)};
  find_tops(args, b, table.range, bounds);
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
  for (int32_t g = static_cast<int32_t>(threadIdx.x); g < count; g += kMatchBlock) {
    const BestPrior<T> top = table.tops()[g];
    if (table.may_pair(top) && table.holders()[top.prior] == g) {
      args.codes[b * args.num_priors + top.prior] = g;
    }
  }
}

template <typename T>
inline cudaError_t launch_force(const MatchArgs<T>& args, cudaStream_t stream) {
  const bool pairs = args.rule.forced == Forced::kBipartite;
  return launch(pairs ? pair_kernel<T> : claim_kernel<T>, dim3(static_cast<unsigned>(args.batch)),
                dim3(kMatchBlock), 0, stream, args);
}

}  // namespace ssd_cuda
