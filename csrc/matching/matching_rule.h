// The rules of matching, once for the CPU and the CUDA kernels: which IoU is better, when a prior is matched.
// They are those of ssd_cuda/reference/matching.py.
#pragma once

#include <type_traits>

#include "boxes/boxes_rule.h"

namespace ssd_cuda {

constexpr int32_t kBackground = -1;
constexpr int32_t kIgnored = -2;  // not matched, and no candidate for mining either

enum class Forced : int { kNone = 0, kArgmax = 1, kBipartite = 2 };
template <>
struct Choice<Forced> {
  static constexpr std::array<const char*, 3> kWords{"none", "argmax", "bipartite"};
};

#define SSD_MATCH_RULE_OPTIONS(X)                                                 \
  X(double, threshold)                                                            \
  X(bool, inclusive)                                                              \
  X(double, eps)                                                                  \
  X(Forced, forced)                                                               \
  X(double, forced_min)                                                           \
  X(bool, relabel_unforced)                                                       \
  X(bool, tie_last)                                                               \
  X(double, candidate_max) /* negative: no such rule */                           \
  X(bool, ignore_degenerate)                                                      \
  X(bool, narrow_truths) /* the boxes were float before they met double priors */ \
  X(bool, narrow_priors)
#define SSD_MATCH_OPTIONS(X) \
  SSD_MATCH_RULE_OPTIONS(X)  \
  X(bool, xyxy) /* priors: x1, y1, x2, y2; else cx, cy, w, h */

SSD_OPTION_STRUCT(MatchSettings, SSD_MATCH_OPTIONS);

template <typename T>
struct MatchRule {
  T threshold;
  T eps;            // added to the union
  T forced_min;     // argmax forces at IoU >= it, bipartite at IoU > it
  T candidate_max;  // unmatched at IoU >= it: kIgnored; negative: no such rule
  Forced forced;
  bool inclusive;
  bool relabel_unforced;
  bool tie_last;
  bool ignore_degenerate;
  BoxFormat format;
  bool narrow_truths, narrow_priors;  // T is double, but these came in float

  // As in torch, which promotes where two tensors meet: what is computed of the priors or truths alone, corners
  // and areas, is rounded in their own dtype.
  SSD_HOST_DEVICE Vec4<T> corners(Vec4<T> prior) const {
    if constexpr (sizeof(T) == 8) {
      if (narrow_priors) return vec4_as<T>(prior_corners(vec4_as<float>(prior), format));
    }
    return prior_corners(prior, format);
  }
  SSD_HOST_DEVICE T prior_area(Vec4<T> corners) const { return area(corners, narrow_priors); }
  SSD_HOST_DEVICE T truth_area(Vec4<T> truth) const { return area(truth, narrow_truths); }
  SSD_HOST_DEVICE static T area(Vec4<T> box, bool narrow) {
    if constexpr (sizeof(T) == 8) {
      if (narrow) return static_cast<T>(box_area(vec4_as<float>(box)));
    }
    return box_area(box);
  }

  SSD_HOST_DEVICE bool takes_part(Vec4<T> truth) const {
    return !ignore_degenerate || is_valid_box(truth);
  }

  // With ignore_degenerate a NaN, which only a bad prior can cause, is no overlap; else NaN stays.
  SSD_HOST_DEVICE T overlap(Vec4<T> truth, T truth_area, Vec4<T> prior, T prior_area) const {
    const T inter = intersection_area(truth, prior);
    const T all = union_of(inter, truth_area, prior_area, eps);
    if (inter == T(0) && all > T(0)) return T(0);  // spares most pairs a division of 0, a slow one
    const T value = div_rn(inter, all);
    return ignore_degenerate && value != value ? T(-1) : value;
  }

  // NaN is above every number and equal to itself, as in torch.max. Among equals the caller's order decides.
  SSD_HOST_DEVICE static bool above(T a, T b) { return a > b || (a != a && b == b); }

  // Whether a later ground truth of overlap a replaces an earlier one of overlap b.
  SSD_HOST_DEVICE bool replaces(T a, T b) const {
    return above(a, b) || (tie_last && !above(b, a));
  }

  // Code of a prior whose best ground truth is owner (-1: none takes part).
  SSD_HOST_DEVICE int32_t code(T best, int32_t owner) const {
    if (owner < 0) return kBackground;
    if (inclusive ? !(best < threshold) : best > threshold) return owner;
    return candidate_max >= T(0) && !(best < candidate_max) ? kIgnored : kBackground;
  }

  SSD_HOST_DEVICE bool is_forced(T best) const {
    return !(forced_min > T(0)) || best >= forced_min;
  }
  // Whether truths that are not forced rename the prior they would have had.
  SSD_HOST_DEVICE bool relabels() const {
    return forced == Forced::kArgmax && relabel_unforced && forced_min > T(0);
  }

  // Overlaps below it do not change the code of a prior.
  SSD_HOST_DEVICE T least_overlap() const {
    return candidate_max >= T(0) && candidate_max < threshold ? candidate_max : threshold;
  }
};

// Of any table that has these options.
template <typename T, typename Settings>
inline MatchRule<T> match_rule(const Settings& settings) {
  return {.threshold = T(settings.threshold),
          .eps = T(settings.eps),
          .forced_min = T(settings.forced_min),
          .candidate_max = T(settings.candidate_max),
          .forced = settings.forced,
          .inclusive = settings.inclusive,
          .relabel_unforced = settings.relabel_unforced,
          .tie_last = settings.tie_last,
          .ignore_degenerate = settings.ignore_degenerate,
          .format = box_format(settings.xyxy),
          .narrow_truths = settings.narrow_truths,
          .narrow_priors = settings.narrow_priors};
}

// All that a call of the op is given.
template <typename T>
struct MatchProblem {
  const Vec4<T>* boxes;    // [rows] x1, y1, x2, y2
  const int32_t* offsets;  // [batch + 1]
  const Vec4<T>* priors;   // [num_priors], or [batch, num_priors]
  int64_t rows, batch, num_priors;
  bool per_image;  // priors have the batch dimension
  MatchRule<T> rule;
  int32_t* codes;  // [batch, num_priors], the result
};

// An index as wide as T: structures of both have no padding, and vector masks of T select it.
template <typename T>
using IndexOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The best prior of a ground truth; prior -1: none seen yet.
template <typename T>
struct BestPrior {
  T overlap;
  IndexOf<T> prior;

  // Takes the other if it is better: order-free, so any schedule gives the same result.
  SSD_HOST_DEVICE void merge(BestPrior other, bool tie_last) {
    if (other.prior < 0) return;
    const bool above = MatchRule<T>::above(other.overlap, overlap);
    const bool equal = !above && !MatchRule<T>::above(overlap, other.overlap);
    const bool nearer = tie_last ? other.prior > prior : other.prior < prior;
    if (prior < 0 || above || (equal && nearer)) *this = other;
  }
};

// A claim of a ground truth on a prior; truth -1: none.
template <typename T>
struct Pair {
  BestPrior<T> top;
  IndexOf<T> truth;

  // Takes the other if its overlap is larger; of equals the one with the nearer prior, then truth.
  SSD_HOST_DEVICE void merge(Pair other, bool tie_last) {
    if (other.truth < 0) return;
    const bool above = MatchRule<T>::above(other.top.overlap, top.overlap);
    const bool below = MatchRule<T>::above(top.overlap, other.top.overlap);
    const bool same = other.top.prior == top.prior;
    const IndexOf<T> mine = same ? truth : top.prior, theirs = same ? other.truth : other.top.prior;
    const bool nearer = tie_last ? theirs > mine : theirs < mine;
    if (truth < 0 || above || (!below && nearer)) *this = other;
  }
};

struct TruthRange {
  int64_t begin, count;

  SSD_HOST_DEVICE bool contains(int64_t row) const { return row >= begin && row < begin + count; }
};

// Rows of image b. Offsets live on the device and are never read by the host, so they are cut here at the
// rows that exist.
SSD_HOST_DEVICE TruthRange truth_range(const int32_t* offsets, int64_t b, int64_t rows) {
  const int64_t first = offsets[b], last = offsets[b + 1];
  const int64_t begin = first < 0 ? 0 : first > rows ? rows : first;
  const int64_t end = last < begin ? begin : last > rows ? rows : last;
  return {begin, end - begin};
}

}  // namespace ssd_cuda
