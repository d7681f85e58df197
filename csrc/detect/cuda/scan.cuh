// Scores of rows of logits, a warp a row, offered to a pool.
//
// softmax: score[c] = exp(x[c] - max) / sum. Lane l adds the columns c = l (mod 32) in order, then the lanes are
// joined by a butterfly: the CPU kernel's order of summation, so the scores have the same bits. A row whose
// foreground numbers all lie below a limit (make_skip_below) has no candidate: it costs one load a column and a vote. In
// the other rows a column is scored where its number is not below a bound that is wider than any rounding.
#pragma once

#include "common/math/exp_math.h"
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

// Index: what counts columns and rows, int64_t, or int for a tile. step: from column to column.
template <typename T, typename S>
struct RowScan {
  static constexpr int kLoads = 4;  // in flight at a time: a row of 128 classes costs one latency

  const DetectOptions<T>& options;
  const DetectInputs<T, S>& inputs;
  const ScanRange<T>& range;

  template <typename Index>
  __device__ __forceinline__ Index own_label() const {
    return static_cast<Index>(range.first_label) + static_cast<Index>(threadIdx.x % 32);
  }

  // The first of the rows `row`, `row` + every ... that may have a candidate; `last` or more when none has. x: the row,
  // row_step: from one to the next. What does not depend on the row is outside the loop: most rows end here.
  template <typename Index>
  __device__ __forceinline__ Index next_row(const S*& x, Index row_step, Index step, Index row,
                                            Index last, Index every) const {
    if (!(options.skip_below > -INFINITY)) return row;
    const bool softmax = options.scores == ScoreKind::kSoftmax;
    const Index background =
        options.first_label > 0 ? 0 : static_cast<Index>(inputs.num_classes - 1) * step;
    const Index own = own_label<Index>() * step;
    const Index mine = static_cast<Index>(range.last_label) - own_label<Index>();
    for (; row < last; row += every, x += row_step) {
      T greatest = -INFINITY;  // a NaN is no candidate, and none is in its row of softmax scores
      const T own_background = softmax ? static_cast<T>(x[background]) : T(0);
      for_columns(x + own, step, mine, [&](T v) { greatest = max(greatest, v); });
      const bool below = greatest < add_rn(own_background, options.skip_below);
      if (__any_sync(kFullWarp, !below)) break;
    }
    return row;
  }

  // fn(number) for every 32nd column of `left` from x on, kLoads of them loaded at a time.
  template <typename Index, typename Fn>
  __device__ __forceinline__ static void for_columns(const S* x, Index step, Index left,
                                                     const Fn& fn) {
#pragma unroll 1
    for (; left > 0; left -= 32 * kLoads, x += 32 * kLoads * step) {
      T v[kLoads];
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
        if (32 * u < left) v[u] = static_cast<T>(x[32 * u * step]);
      }
#pragma unroll
      for (int u = 0; u < kLoads; ++u) {
        if (32 * u < left) fn(v[u]);
      }
    }
  }

  // The row's maximum and sum of exponentials, the same in every lane.
  template <typename Index>
  __device__ __forceinline__ void normalizer(const S* x, Index step, T& top, T& sum) const {
    const Index lane = threadIdx.x % 32, mine = static_cast<Index>(inputs.num_classes) - lane;
    x += lane * step;
    top = -INFINITY;
    for_columns(x, step, mine, [&](T v) { top = v > top ? v : top; });
    for (int offset = 16; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(kFullWarp, top, offset);
      top = other > top ? other : top;
    }
    sum = 0;
    for_columns(x, step, mine, [&](T v) { sum = add_rn(sum, exp_negative(sub_rn(v, top))); });
    for (int offset = 16; offset > 0; offset /= 2) {
      sum = add_rn(sum, __shfl_xor_sync(kFullWarp, sum, offset));
    }
  }

  // x: the number of the column, less the row's maximum for softmax.
  __device__ __forceinline__ T score(T x, T sum) const {
    if (options.scores == ScoreKind::kGiven) return x;
    if (options.scores == ScoreKind::kSigmoid) return div_rn(T(1), add_rn(T(1), exp_fixed(-x)));
    return div_rn(exp_negative(x), sum);
  }

  // A score that may enter has x at or above this. worst: the least score that enters, or NaN.
  __device__ __forceinline__ T least_x(T sum, T worst) const {
    if (options.scores != ScoreKind::kSoftmax) return options.skip_below;
    const T limit = worst > options.score_threshold ? worst : options.score_threshold;
    return log_near(limit * sum) - T(1e-3);
  }

  __device__ __forceinline__ bool is_open(int64_t label) const {
    if (range.seen == nullptr) return true;
    return range.seen[options.class_agnostic ? 0 : label - options.first_label] < options.top_k;
  }

  // Offers the row from its label `done` on; false, with `done` at the labels that found no room.
  template <typename Index, typename P>
  __device__ __forceinline__ bool row(const S* x, Index step, int64_t prior, Index& done,
                                      const P& pool) const {
    T top = 0, sum = 1;
    if (options.scores == ScoreKind::kSoftmax) normalizer(x, step, top, sum);
    const T least = least_x(sum, candidate_score(pool.state->worst));
#pragma unroll 1
    for (; done < static_cast<Index>(range.last_label - range.first_label); done += 32) {
      const Index c = own_label<Index>() + done;
      CandidateKey<T> key = 0;
      T v = 0;
      bool wanted = c < static_cast<Index>(range.last_label);
      if (wanted) {
        v = sub_rn(static_cast<T>(x[c * step]), top);
        wanted = !(v < least);
      }
      if (wanted) {
        const T s = score(v, sum);
        key = candidate_key(s, static_cast<uint32_t>(c) * static_cast<uint32_t>(inputs.num_priors) +
                                   static_cast<uint32_t>(prior));
        wanted =
            s > options.score_threshold && (!range.after_any || key > range.after) && is_open(c);
      }
      if (!pool.append(wanted, key)) return false;
    }
    done = 0;
    return true;
  }

  // All threads: fills the pool with the candidates of the range.
  template <typename P>
  __device__ __forceinline__ void fill(const P& pool) const {
    const int64_t warps = blockDim.x / 32, step = inputs.conf.column_stride;
    const int64_t row_step = warps * inputs.conf.row_stride;
    int64_t prior = range.first_row + threadIdx.x / 32, done = 0;
    const S* x = inputs.conf.row(range.image, prior);
    pool.fill([&] {
      for (;; prior += warps, x += row_step) {
        if (done == 0) prior = next_row(x, row_step, step, prior, range.last_row, warps);
        if (prior >= range.last_row) return true;
        if (!row(x, step, prior, done, pool)) return false;
      }
    });
  }

 private:
  // log, for a bound: as near as 1e-4, or -inf or NaN.
  __device__ __forceinline__ static float log_near(float v) { return __logf(v); }
  __device__ __forceinline__ static double log_near(double v) { return std::log(v); }
};

}  // namespace ssd_cuda
