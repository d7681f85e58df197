// Scores of rows of logits, a warp a row, offered to a pool.
//
// softmax: score[c] = exp(x[c] - max) / sum. Lane l adds the columns c = l (mod 32) in order, then the lanes are
// joined by a butterfly: the CPU kernel's order of summation, so the scores have the same bits. A row whose
// foreground logits all lie below x[background] + log(threshold) has no candidate: it costs one load a column and
// a vote. The passes that follow read the row again, from the first-level cache.
#pragma once

#include "../common/exp_math.h"
#include "pool.cuh"

namespace ssd_cuda {

// Which candidates of an image are wanted.
template <typename T>
struct ScanRange {
  int64_t image;
  int64_t first_row, last_row;      // priors
  int64_t first_label, last_label;  // columns
  bool after_any;                   // only keys beyond `after`
  CandidateKey<T> after;
  // [lists] candidates that a list has had, or null: lists with top_k of them are closed
  const unsigned* seen;
};

template <typename T, typename S>
struct RowScan {
  static constexpr int kLoads = 4;  // in flight at a time: a row of 128 classes costs one latency

  const DetectOptions<T>& options;
  const DetectInputs<T, S>& inputs;
  const ScanRange<T>& range;

  __device__ __forceinline__ T logit(const S* x, int64_t c) const {
    return static_cast<T>(x[c * inputs.conf.column_stride]);
  }

  // The first row from `prior` on, every `warps`-th, that may have a candidate; last_row or more when none has. What
  // does not depend on the row is outside the loop: most rows end here.
  __device__ __forceinline__ int64_t next_row(int64_t prior, int64_t warps) const {
    if (options.scores != ScoreKind::kSoftmax || !(options.skip_below > -INFINITY)) return prior;
    const int64_t columns = inputs.conf.column_stride, step = 32 * columns;
    const int64_t background = options.first_label > 0 ? 0 : (inputs.num_classes - 1) * columns;
    const int64_t own = (range.first_label + threadIdx.x % 32) * columns;
    const int64_t mine = range.last_label - range.first_label - threadIdx.x % 32;
    const S* x = inputs.conf.row(range.image, prior);
    for (; prior < range.last_row; prior += warps, x += warps * inputs.conf.row_stride) {
      const S* next = x + own;
      T v[kLoads];
      const auto load = [&](int64_t left) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
          v[u] = 32 * u < left ? static_cast<T>(next[u * step]) : T(-INFINITY);
        }
      };
      load(mine);  // before the background is needed: one latency, not two
      const T limit = add_rn(static_cast<T>(x[background]), options.skip_below);
      bool any = false;
      for (int64_t left = mine;;) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) any |= !(v[u] < limit);
        left -= 32 * kLoads;
        if (left <= 0) break;
        next += kLoads * step;
        load(left);
      }
      if (__any_sync(kFullWarp, any)) break;
    }
    return prior;
  }

  // The row's maximum and sum of exponentials, the same in every lane.
  __device__ __forceinline__ void normalizer(const S* x, unsigned lane, T& top, T& sum) const {
    top = -INFINITY;
    for (int64_t c = lane; c < inputs.num_classes; c += 32) {
      const T v = logit(x, c);
      top = v > top ? v : top;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(kFullWarp, top, offset);
      top = other > top ? other : top;
    }
    sum = 0;
    for (int64_t c = lane; c < inputs.num_classes; c += 32) {
      sum = add_rn(sum, exp_negative(sub_rn(logit(x, c), top)));
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      sum = add_rn(sum, __shfl_xor_sync(kFullWarp, sum, offset));
    }
  }

  __device__ __forceinline__ T score(T x, T top, T sum) const {
    if (options.scores == ScoreKind::kGiven) return x;
    if (options.scores == ScoreKind::kSigmoid) return div_rn(T(1), add_rn(T(1), exp_fixed(-x)));
    return div_rn(exp_negative(sub_rn(x, top)), sum);
  }

  __device__ __forceinline__ bool is_open(int64_t label) const {
    if (range.seen == nullptr) return true;
    return range.seen[options.class_agnostic ? 0 : label - options.first_label] < options.top_k;
  }

  // Offers the row from its column `done` on; false, with `done` at the columns that found no room.
  __device__ __forceinline__ bool row(int64_t prior, int64_t& done, const Pool<T>& pool) const {
    const unsigned lane = threadIdx.x % 32;
    const S* x = inputs.conf.row(range.image, prior);
    T top = 0, sum = 1;
    if (options.scores == ScoreKind::kSoftmax) normalizer(x, lane, top, sum);
    for (; done < range.last_label - range.first_label; done += 32) {
      const int64_t c = range.first_label + done + lane;
      bool wanted = c < range.last_label;
      CandidateKey<T> key = 0;
      if (wanted) {
        const T s = score(logit(x, c), top, sum);
        key = candidate_key(s, static_cast<uint32_t>(c * inputs.num_priors + prior));
        wanted =
            s > options.score_threshold && (!range.after_any || key > range.after) && is_open(c);
      }
      if (!pool.append(wanted, key)) return false;
    }
    done = 0;
    return true;
  }

  // All threads: fills the pool with the candidates of the range.
  __device__ __forceinline__ void fill(const Pool<T>& pool) const {
    const int64_t warps = blockDim.x / 32;
    int64_t prior = range.first_row + threadIdx.x / 32, done = 0;
    pool.fill([&] {
      for (;; prior += warps) {
        if (done == 0) prior = next_row(prior, warps);
        if (prior >= range.last_row) return true;
        if (!row(prior, done, pool)) return false;
      }
    });
  }
};

}  // namespace ssd_cuda
