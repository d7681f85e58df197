// The matches that ground truths are owed whatever their IoU: one block an image, after match_kernel.
//
//   argmax     every truth claims its best prior with atomicMax(code, kClaim | truth): the last truth wins
//   bipartite  the largest overlap among free truths and free priors makes a pair, again and again; a truth
//              searches a new prior only when the one it held is taken
//
// The result does not depend on the order of the claims. Reads 8 B and writes 4 B a truth (argmax);
// a search reads the image's priors once.
#pragma once

#include "matching.cuh"

namespace ssd_cuda {

constexpr int32_t kClaim = 1 << 30;  // above every truth of an image

// The best of what the threads of a block hold; the same result for all of them. scratch: [kMatchBlock].
template <typename T>
__device__ __forceinline__ Pair<T> block_best(Pair<T> mine, Pair<T>* scratch, bool tie_last) {
  scratch[threadIdx.x] = mine;
  for (unsigned half = kMatchBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      Pair<T> best = scratch[threadIdx.x];
      best.merge(scratch[threadIdx.x + half], tie_last);
      scratch[threadIdx.x] = best;
    }
  }
  __syncthreads();
  const Pair<T> best = scratch[0];
  __syncthreads();  // scratch may be used again
  return best;
}

// The best prior of one truth, by the whole block. With only_free, priors that are claimed and overlaps that
// are NaN do not count.
template <typename T>
__device__ __forceinline__ BestPrior<T> search_prior(const MatchArgs<T>& args, int64_t b,
                                                     Vec4<T> truth, bool only_free,
                                                     Pair<T>* scratch) {
  const T truth_area = box_area(truth);
  const int32_t* codes = args.codes + b * args.num_priors;
  Pair<T> mine{{T(0), -1}, -1};
  for (int64_t p = threadIdx.x; p < args.num_priors; p += kMatchBlock) {
    if (only_free && codes[p] >= kClaim) continue;
    const Vec4<T> prior = args.prior(b, p);
    const T overlap = args.rule.overlap(truth, truth_area, prior, box_area(prior));
    if (only_free && overlap != overlap) continue;
    mine.merge({{overlap, static_cast<IndexOf<T>>(p)}, 0}, args.rule.tie_last);
  }
  return block_best(mine, scratch, args.rule.tie_last).top;
}

// Fills args.tops for the truths of the image: from match_kernel's integers, or by search. Where a search
// will follow anyway (search_later) a NaN asks for it.
template <typename T>
__device__ __forceinline__ void resolve_tops(const MatchArgs<T>& args, int64_t b, TruthRange range,
                                             bool search_later, Pair<T>* scratch) {
  BestPrior<T>* tops = args.tops + range.begin;
  if constexpr (sizeof(T) == 4) {
    for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
      tops[g] = unpack_top(args.packed[range.begin + g], args.rule.tie_last);
    }
  } else {
    for (int64_t g = 0; g < range.count; ++g) {
      const Vec4<T> truth = args.truth(range.begin + g);
      BestPrior<T> top{T(0), -1};
      if (args.rule.takes_part(truth)) {
        if (search_later) {
          top = {T(NAN), 0};
        } else {
          top = search_prior(args, b, truth, false, scratch);
        }
      }
      if (threadIdx.x == 0) tops[g] = top;
    }
  }
  __syncthreads();
}

// Truths with a prior in tops claim it; of several the last has it.
template <typename T>
__device__ __forceinline__ void claim(const BestPrior<T>* tops, int64_t count, int32_t* codes) {
  for (int64_t g = threadIdx.x; g < count; g += kMatchBlock) {
    if (tops[g].prior >= 0) atomicMax(&codes[tops[g].prior], kClaim | static_cast<int32_t>(g));
  }
  __syncthreads();
  for (int64_t g = threadIdx.x; g < count; g += kMatchBlock) {
    if (tops[g].prior >= 0) atomicAnd(&codes[tops[g].prior], kClaim - 1);
  }
  __syncthreads();
}

template <typename T>
__device__ __forceinline__ void force_argmax(const MatchArgs<T>& args, TruthRange range,
                                             int32_t* codes) {
  BestPrior<T>* tops = args.tops + range.begin;
  const bool partly = args.rule.forced_min > T(0);
  if (partly) {  // a truth that is not forced hides its prior behind -2 - prior
    for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
      if (tops[g].prior >= 0 && !args.rule.is_forced(tops[g].overlap)) {
        tops[g].prior = -2 - tops[g].prior;
      }
    }
    __syncthreads();
  }
  claim(tops, range.count, codes);
  if (!partly || !args.rule.relabel_unforced) return;
  for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
    const IndexOf<T> prior = tops[g].prior < -1 ? -2 - tops[g].prior : tops[g].prior;
    tops[g].prior = prior >= 0 && codes[prior] >= 0 ? prior : -1;
  }
  __syncthreads();
  claim(tops, range.count, codes);
}

// Every truth for which lost(its best prior) holds searches another; lost must not depend on the search.
template <typename T, typename Lost>
__device__ __forceinline__ void search_again(const MatchArgs<T>& args, int64_t b, TruthRange range,
                                             Pair<T>* scratch, const Lost& lost) {
  BestPrior<T>* tops = args.tops + range.begin;
  const int32_t count = static_cast<int32_t>(range.count);  // < kClaim
  for (int32_t base = 0; base < count; base += kMatchBlock) {
    const int32_t g = base + static_cast<int32_t>(threadIdx.x);
    if (!__syncthreads_or(g < count && lost(tops[g]))) continue;
    for (int32_t i = base; i < base + kMatchBlock && i < count; ++i) {
      const bool again = lost(tops[i]);
      __syncthreads();  // all have read it
      if (!again) continue;
      const Vec4<T> truth = args.truth(range.begin + i);
      const BestPrior<T> top = search_prior(args, b, truth, true, scratch);
      if (threadIdx.x == 0) tops[i] = top;
    }
  }
}

template <typename T>
__device__ __forceinline__ void force_bipartite(const MatchArgs<T>& args, int64_t b,
                                                TruthRange range, int32_t* codes,
                                                Pair<T>* scratch) {
  BestPrior<T>* tops = args.tops + range.begin;
  IndexOf<T> taken = -1;  // the prior of the last pair
  while (true) {
    search_again(args, b, range, scratch, [&](BestPrior<T> top) {
      return top.prior >= 0 && (top.prior == taken || top.overlap != top.overlap);
    });
    __syncthreads();
    Pair<T> mine{{T(0), -1}, -1};
    for (int64_t g = threadIdx.x; g < range.count; g += kMatchBlock) {
      if (tops[g].prior < 0 || !(tops[g].overlap > args.rule.forced_min)) continue;
      mine.merge({tops[g], static_cast<IndexOf<T>>(g)}, args.rule.tie_last);
    }
    const Pair<T> pair = block_best(mine, scratch, args.rule.tie_last);
    if (pair.truth < 0) break;
    taken = pair.top.prior;
    if (threadIdx.x == 0) {
      codes[taken] = kClaim | static_cast<int32_t>(pair.truth);
      tops[pair.truth].prior = -1;
    }
    __syncthreads();
  }
  for (int64_t p = threadIdx.x; p < args.num_priors; p += kMatchBlock) {
    if (codes[p] >= kClaim) codes[p] -= kClaim;
  }
}

// One block an image. The second bound keeps ptxas from spilling around the division for an occupancy that
// one block an image never reaches.
template <typename T, Forced kForced>
__global__ void __launch_bounds__(kMatchBlock, 2) force_kernel(const MatchArgs<T> args) {
  __shared__ Pair<T> scratch[kMatchBlock];
  const int64_t b = blockIdx.x;
  const TruthRange range = truth_range(args.offsets, b, args.rows);
  int32_t* codes = args.codes + b * args.num_priors;
  resolve_tops(args, b, range, kForced == Forced::kBipartite, scratch);
  if constexpr (kForced == Forced::kArgmax) {
    force_argmax(args, range, codes);
  } else {
    force_bipartite(args, b, range, codes, scratch);
  }
}

template <typename T>
inline cudaError_t launch_force(const MatchArgs<T>& args, cudaStream_t stream) {
  if (args.rule.forced == Forced::kNone || args.num_priors == 0) return cudaSuccess;
  const auto kernel = args.rule.forced == Forced::kArgmax ? force_kernel<T, Forced::kArgmax>
                                                          : force_kernel<T, Forced::kBipartite>;
  return launch(kernel, dim3(static_cast<unsigned>(args.batch)), dim3(kMatchBlock), 0, stream,
                args);
}

}  // namespace ssd_cuda
