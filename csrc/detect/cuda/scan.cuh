// Scores of rows of logits, a warp or a part of one a row, offered to a pool.
//
// softmax: score[c] = exp(x[c] - max) / sum. The columns c = l (mod 32) are added in order, then these 32 sums are
// joined as by a butterfly: the CPU kernel's order of summation, so the scores have the same bits. A row whose
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

  // The greatest number of a row, which a warp reads, the same in every lane; -inf if it has none.
  template <typename Index>
  __device__ __forceinline__ T greatest_of_row(const S* x, Index step) const {
    const Index lane = threadIdx.x % 32;
    T top = -INFINITY;
    for_columns(x + lane * step, step, static_cast<Index>(inputs.num_classes) - lane,
                [&](T v) { top = max_number(top, v); });
    for (int offset = 16; offset > 0; offset /= 2) {
      top = max_number(top, __shfl_xor_sync(kFullWarp, top, offset));
    }
    return top;
  }

  // What a lane holds of a row's first kHeldRounds * 32 columns: number lane + kLanes * u less the greatest, so that the
  // memory of a row that is held whole can be taken for others. 91 classes are COCO's; a fourth round spills on sm_75.
  static constexpr int kHeldRounds = 3;
  template <int kLanes>
  static constexpr int kHeld = kHeldRounds * (32 / kLanes);
  __device__ __forceinline__ bool holds_all() const {
    return inputs.num_classes <= kHeldRounds * 32;
  }

  // top: the row's greatest number, 0 but for softmax. Beyond the last column: -inf, whose exponential is 0.
  template <int kLanes, typename Index>
  __device__ __forceinline__ void hold(const S* x, Index step, T top,
                                       T (&held)[kHeld<kLanes>]) const {
    const Index lane = static_cast<Index>(threadIdx.x % kLanes);
    const Index mine = static_cast<Index>(inputs.num_classes) - lane;
    x += lane * step;
#pragma unroll
    for (int u = 0; u < kHeld<kLanes>; ++u) held[u] = T(-INFINITY);
#pragma unroll
    for (int i = 0; i < kHeldRounds; ++i) {
      if (32 * i >= static_cast<int>(inputs.num_classes)) break;
#pragma unroll
      for (int c = 32 * i; c < 32 * (i + 1); c += kLanes) {
        if (c < mine) held[c / kLanes] = sub_rn(static_cast<T>(x[c * step]), top);
      }
    }
  }

  // held[u]. Halves are chosen between: an index that nobody knows would put the numbers into local memory.
  template <int kCount>
  __device__ __forceinline__ static T chosen(const T (&held)[kCount], unsigned u) {
    T left[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) left[i] = held[i];
#pragma unroll
    for (int count = kCount; count > 1; count = (count + 1) / 2, u /= 2) {
#pragma unroll
      for (int i = 0; i < count / 2; ++i) left[i] = (u & 1u) != 0 ? left[2 * i + 1] : left[2 * i];
      if (count % 2 != 0) left[count / 2] = left[count - 1];
    }
    return left[0];
  }

  // The sum of exp(number - top) of a row, the same in each of its kLanes lanes. A lane has the columns of
  // 32 / kLanes residues modulo 32; it joins its own sums first, as the butterfly over 32 lanes would.
  template <int kLanes, typename Index>
  __device__ __forceinline__ T sum_of_row(const S* x, Index step, T top,
                                          const T (&held)[kHeld<kLanes>]) const {
    constexpr int kParts = 32 / kLanes;
    const Index lane = static_cast<Index>(threadIdx.x % kLanes);
    const Index columns = static_cast<Index>(inputs.num_classes);
    x += lane * step;
    const auto number = [&](Index c) {
      return c < columns - lane ? sub_rn(static_cast<T>(x[c * step]), top) : T(-INFINITY);
    };
    T sums[kParts] = {};
#pragma unroll
    for (int i = 0; i < kHeldRounds; ++i) {
      if (32 * i >= columns) break;
#pragma unroll
      for (int u = 0; u < kParts; ++u) {
        sums[u] = add_exp_negative(sums[u], held[i * kParts + u]);
      }
    }
#pragma unroll 1
    for (Index c = 32 * kHeldRounds; c < columns; c += 32) {
#pragma unroll
      for (int u = 0; u < kParts; ++u) {
        sums[u] = add_exp_negative(sums[u], number(c + kLanes * u));
      }
    }
#pragma unroll
    for (int half = kParts / 2; half > 0; half /= 2) {
#pragma unroll
      for (int u = 0; u < half; ++u) sums[u] = add_rn(sums[u], sums[u + half]);
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sums[0] = add_rn(sums[0], __shfl_xor_sync(kFullWarp, sums[0], offset));
    }
    return sums[0];
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

  // Where in its rows a warp stands that found no room.
  template <typename Index>
  struct Progress {
    Index column = 0;     // those before have been offered; a multiple of 32 * kLanes
    bool listed = false;  // `open` is known
    unsigned open = 0;    // bit u: column + lane + kLanes * u is still to be offered
  };

  // Bit u: column `first` + lane + kLanes * u is of the foreground.
  template <int kLanes>
  __device__ __forceinline__ unsigned foreground(int64_t first) const {
    const int64_t own = first + threadIdx.x % kLanes;
    const auto before = [&](int64_t label) {  // bits of the columns before the label
      const int64_t bits = label <= own ? 0 : (label - own + kLanes - 1) / kLanes;
      return bits < 32 ? (1u << bits) - 1u : ~0u;
    };
    return before(range.last_label) & ~before(range.first_label);
  }

  // Bit u: the number at x + kLanes * u may be a candidate's, of those in `wanted`.
  template <int kLanes, typename Index>
  __device__ __forceinline__ static unsigned list(const S* x, Index step, unsigned wanted, T top,
                                                  T least) {
    unsigned open = 0;
#pragma unroll 4
    for (int u = 0; u < 32; ++u) {
      if (wanted >> u == 0) break;
      if ((wanted >> u & 1u) != 0 &&
          !(sub_rn(static_cast<T>(x[static_cast<Index>(kLanes * u) * step]), top) < least)) {
        open |= 1u << u;
      }
    }
    return open;
  }

  // Offers the rows of a warp, 32 / kLanes at once: x is that of the lane, not read where holds_all(), top and held are as
  // hold() had them; valid: there is one. columns: foreground(0). False when some found no room: to be called again with
  // the same rows.
  template <int kLanes, typename Index, typename P>
  __device__ __forceinline__ bool row(const S* x, Index step, int64_t prior, bool valid, T top,
                                      const T (&held)[kHeld<kLanes>], unsigned columns,
                                      Progress<Index>& at, const P& pool) const {
    const bool held_whole = holds_all();
    T sum = 1;
    if (options.scores == ScoreKind::kSoftmax) sum = sum_of_row<kLanes>(x, step, top, held);
    const T least = least_x(sum, candidate_score(pool.state->worst));
    const int lane = static_cast<int>(threadIdx.x % kLanes);
#pragma unroll 1
    for (; at.column < static_cast<Index>(range.last_label); at.column += 32 * kLanes) {
      const Index own = at.column + lane;
      if (!at.listed) {
        at.open = !valid ? 0 : at.column == 0 ? columns : foreground<kLanes>(at.column);
        if (held_whole) {
          unsigned found = 0;
#pragma unroll
          for (int u = 0; u < kHeld<kLanes>; ++u) found |= !(held[u] < least) ? 1u << u : 0u;
          at.open &= found;
        } else {
          at.open = list<kLanes>(x + own * step, step, at.open, top, least);
        }
        at.listed = true;
      }
#pragma unroll 1
      while (__any_sync(kFullWarp, at.open != 0)) {
        CandidateKey<T> key = 0;
        bool wanted = at.open != 0;
        if (wanted) {
          const int u = __ffs(static_cast<int>(at.open)) - 1;
          const Index c = own + kLanes * static_cast<Index>(u);
          const T number = held_whole ? chosen(held, static_cast<unsigned>(u))
                                      : sub_rn(static_cast<T>(x[c * step]), top);
          const T s = score(number, sum);
          key =
              candidate_key(s, static_cast<uint32_t>(c) * static_cast<uint32_t>(inputs.num_priors) +
                                   static_cast<uint32_t>(prior));
          wanted = s > options.score_threshold_of(c) && (!range.after_any || key > range.after) &&
                   is_open(c);
        }
        if (!pool.append(wanted, key)) return false;
        at.open &= at.open - 1;
      }
      at.listed = false;
    }
    at.column = 0;
    return true;
  }

  // All threads: fills the pool with the candidates of the range.
  template <typename P>
  __device__ __forceinline__ void fill(const P& pool) const {
    const int64_t warps = blockDim.x / 32, step = inputs.conf.column_stride;
    const int64_t row_step = warps * inputs.conf.row_stride;
    int64_t prior = range.first_row + threadIdx.x / 32;
    const unsigned columns = foreground<32>(0);
    Progress<int64_t> at;
    const S* x = inputs.conf.row(range.image, prior);
    pool.fill([&] {
      for (;; prior += warps, x += row_step) {
        prior = next_row(x, row_step, step, prior, range.last_row, warps);
        if (prior >= range.last_row) return true;
        const bool softmax = options.scores == ScoreKind::kSoftmax;
        const T top = softmax ? greatest_of_row(x, step) : T(0);
        T held[kHeld<32>];
        hold<32>(x, step, top, held);
        if (!row<32>(x, step, prior, true, top, held, columns, at, pool)) return false;
      }
    });
  }

 private:
  // log, for a bound: as near as 1e-4, or -inf or NaN.
  __device__ __forceinline__ static float log_near(float v) { return __logf(v); }
  __device__ __forceinline__ static double log_near(double v) { return std::log(v); }
};

}  // namespace ssd_cuda
