// Finding the candidates of an image on the CPU: one read of the logits, the best keys of each pool kept.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "common/cpu/exp_simd.h"
#include "common/cpu/lanes.h"
#include "detect/detect_rule.h"

namespace ssd_cuda {

// The best `keep` keys of a stream, exactly, or those below a bound where these are fewer. Holds at most twice that many: it
// is cut in half when full, and from then on only keys below the worst kept one enter.
template <typename T>
class CandidatePool {
 public:
  using Key = CandidateKey<T>;

  explicit CandidatePool(int64_t keep)
      : keep_(static_cast<std::size_t>(keep)),
        full_(keep > kNoLimit / 2 ? kNoLimit : std::max<int64_t>(2 * keep, 1024)) {}

  // True when the pool was cut, that is, when worst() changed.
  bool add(Key key) {
    if (!(key < worst_)) return false;
    keys.push_back(key);
    if (keys.size() < full_) return false;
    cut();
    return true;
  }
  Key worst() const { return worst_; }
  bool was_cut() const { return was_cut_; }
  int64_t keep() const { return static_cast<int64_t>(keep_); }

  // From now on holds only keys up to `bound`, but all of these.
  void narrow(Key bound) {
    if (!(bound < bound_)) return;
    bound_ = bound;
    was_cut_ = true;
    worst_ = std::min(worst_, bound + 1);
    std::erase_if(keys, [&](Key key) { return key > bound; });
  }
  Key bound() const { return bound_; }

  // Leaves at most keep() keys.
  void finish() {
    if (keys.size() > keep_) cut();
  }
  // The same, best first.
  void sort() {
    finish();
    std::sort(keys.begin(), keys.end());
  }

  std::vector<Key> keys;

 private:
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  __attribute__((noinline)) void cut() {
    std::nth_element(keys.begin(), keys.begin() + (keep_ - 1), keys.end());
    keys.resize(keep_);
    worst_ = keys.back();
    was_cut_ = true;
  }

  std::size_t keep_, full_;
  Key worst_ = ~Key{0}, bound_ = ~Key{0};
  bool was_cut_ = false;
};

// A row's sum has this many partial sums, whatever the register width: the lanes of a warp.
constexpr int64_t kScanLanes = 32;
constexpr int64_t kScanTile = 32;      // rows converted at a time
constexpr int64_t kForetelling = 256;  // so many candidates say how many there will be
constexpr int64_t kSampleStep = 16;    // of so many rows one is looked at for a bound
constexpr int64_t kScanAhead =
    2048;  // bytes between a row and that read now: the processor's own prefetch ends with a page

inline int64_t padded_columns(int64_t columns) {
  return (columns + kScanLanes - 1) / kScanLanes * kScanLanes;
}

// Pools of candidates and, per column, the score that a candidate must at least have to matter: the threshold,
// or the worst score of a full pool; +inf for background and padding.
template <typename T>
class CandidateSink {
 public:
  using Key = CandidateKey<T>;

  // pool_per_label: one pool a foreground column, else one for all.
  CandidateSink(const DetectOptions<T>& options, int64_t num_priors, int64_t num_classes,
                int64_t keep, bool pool_per_label)
      : pools(pool_per_label ? options.labels() : 1, CandidatePool<T>(keep)),
        limits(padded_columns(num_classes), std::numeric_limits<T>::infinity()),
        options_(options),
        num_priors_(num_priors),
        pool_per_label_(pool_per_label) {
    for (int64_t c = options.first_label; c < options.last_label; ++c) {
      limits[c] = options.score_threshold_of(c);
    }
  }

  void offer(T score, int64_t label, int64_t prior) {
    // A given score of +inf reaches the limit of the background too.
    if (label < options_.first_label || label >= options_.last_label) return;
    if (!(score > options_.score_threshold_of(label))) return;
    const Key key = candidate_key(score, static_cast<uint32_t>(label * num_priors_ + prior));
    if (after_any && !(key > after)) return;
    CandidatePool<T>& pool = pools[pool_per_label_ ? label - options_.first_label : 0];
    if (pool.add(key)) raise_limits(pool, label);
  }

  // Of a sink with one pool: see CandidatePool.
  void narrow(Key bound) {
    pools[0].narrow(bound);
    raise_limits(pools[0], options_.first_label);
  }

  // Leaves a label out from now on.
  void close(int64_t label) { limits[label] = std::numeric_limits<T>::infinity(); }

  std::vector<CandidatePool<T>> pools;
  std::vector<T> limits;   // [padded C]
  bool after_any = false;  // only keys beyond `after` are taken
  Key after = 0;

 private:
  __attribute__((noinline)) void raise_limits(const CandidatePool<T>& pool, int64_t label) {
    // Scores that tie with the worst one may enter, by their label. A subnormal quotient is rounded by more than scan_row
    // allows for, yet by less than this; no other number changes.
    const T limit = candidate_score(pool.worst()) - std::numeric_limits<T>::denorm_min();
    const int64_t first = pool_per_label_ ? label : options_.first_label;
    const int64_t last = pool_per_label_ ? label + 1 : options_.last_label;
    for (int64_t c = first; c < last; ++c) limits[c] = std::max(limits[c], limit);
  }

  const DetectOptions<T>& options_;
  int64_t num_priors_;
  bool pool_per_label_;
};

// op over all lanes, halves first: lane l with lane l + N / 2, and so on.
template <typename T, typename V, typename Op>
SSD_SIMD_BODY inline T fold(V v, const Op& op) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  if constexpr (kLanes == 2) {
    return op(static_cast<T>(v[0]), static_cast<T>(v[1]));
  } else {
    Pack<T, kLanes / 2> half[2];
    std::memcpy(half, &v, sizeof v);
    return fold<T>(op(half[0], half[1]), op);
  }
}

// Scores rows of logits and offers what may matter to a sink.
//
// softmax: score[c] = exp(x[c] - max) / sum, where the sum is taken over 32 partial sums (column c in sum c mod 32)
// joined in a fixed tree, so that it has the same bits at every register width and on a card. A row whose
// foreground numbers all lie below a limit (make_skip_below) has no candidate: no exp is taken for it.
template <typename T, typename S>
class RowScanner {
 public:
  RowScanner(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs)
      : options_(options),
        inputs_(inputs),
        columns_(inputs.num_classes),
        padded_(padded_columns(columns_)) {
    const RowView<S>& conf = inputs.conf;
    end_ = conf.data + (inputs.images - 1) * conf.image_stride +
           (inputs.num_priors - 1) * conf.row_stride + columns_;
    constexpr T kInf = std::numeric_limits<T>::infinity();
    columns_cap_.assign(padded_, -kInf);
    std::fill(columns_cap_.begin(), columns_cap_.begin() + columns_, kInf);
    foreground_cap_.assign(padded_, -kInf);
    std::fill(foreground_cap_.begin() + options.first_label,
              foreground_cap_.begin() + options.last_label, kInf);
    may_skip_ = options.skip_below > -std::numeric_limits<T>::infinity();
    if (options.scores == ScoreKind::kSoftmax) {
      background_ = options.first_label > 0 ? 0 : columns_ - 1;
    }
  }

  // Where the first rows foretell that a pool will overflow, a sample of all tells what its worst key will be: most of what
  // would enter it until then, and leave again, is not offered. It may hold too few then: `narrow` says that the caller would
  // look for more.
  void scan(int64_t image, int64_t begin, int64_t end, bool narrow, CandidateSink<T>& sink) const {
    bool sampled = !narrow;
    visit(image, begin, end, 1, sink, [&](int64_t seen) {
      const CandidatePool<T>& pool = sink.pools[0];
      const auto found = static_cast<int64_t>(pool.keys.size());
      if (sampled || found < kForetelling) return;
      if (!pool.was_cut() && found < 2 * static_cast<double>(pool.keep()) * seen / (end - begin))
        return;
      sampled = true;
      narrow_by_sample(image, begin, end, sink);
    });
  }

 private:
  void narrow_by_sample(int64_t image, int64_t begin, int64_t end, CandidateSink<T>& sink) const {
    // A quarter more than are wanted: a sample of a hundred is a tenth off.
    const int64_t wanted = sink.pools[0].keep() / 4 * 5 / kSampleStep;
    if (wanted < 1) return;
    CandidateSink<T> sample = sink;
    sample.pools[0] = CandidatePool<T>(wanted);
    visit(image, begin, end, kSampleStep, sample, [](int64_t) {});
    sample.pools[0].sort();
    const auto& best = sample.pools[0].keys;
    if (static_cast<int64_t>(best.size()) == wanted) sink.narrow(best.back());
  }

  // Every step-th row of [begin, end); after(rows so far) after each tile.
  template <typename After>
  void visit(int64_t image, int64_t begin, int64_t end, int64_t step, CandidateSink<T>& sink,
             const After& after) const {
    std::vector<T> tile(kScanTile * padded_), work(padded_);
    const int64_t row_bytes = columns_ * sizeof(T);
    const int64_t ahead = (kScanAhead / row_bytes + 1) * step * inputs_.conf.row_stride * sizeof(T);
    for (int64_t p = begin; p < end; p += kScanTile * step) {
      const int64_t rows = std::min(kScanTile, (end - p + step - 1) / step);
      const T* source[kScanTile];
      for (int64_t r = 0; r < rows; ++r) {
        source[r] = load_row(inputs_.conf.row(image, p + r * step), tile.data() + r * padded_);
      }
      with_simd([&](auto bytes) SSD_SIMD_BODY {
        using V = Pack<T, decltype(bytes)::value / sizeof(T)>;
        // All rows are looked at before one is worked on: no branch that cannot be foreseen between their loads.
        int64_t chosen[kScanTile], count = 0;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t byte = 0; byte < row_bytes; byte += 64) {
            __builtin_prefetch(reinterpret_cast<const char*>(source[r]) + ahead + byte);
          }
          chosen[count] = r;
          count += may_have_candidate<V>(source[r]);
        }
        for (int64_t i = 0; i < count; ++i) {
          scan_row<V>(source[chosen[i]], p + chosen[i] * step, work.data(), sink);
        }
      });
      after(p + rows - begin);
    }
  }

  // The row itself where it can be read up to padded_ columns in place, else a padded copy.
  const T* load_row(const S* row, T* copy) const {
    if constexpr (std::is_same_v<S, T>) {
      if (inputs_.conf.column_stride == 1 && row + padded_ <= end_) return row;
    }
    const int64_t step = inputs_.conf.column_stride;
    for (int64_t c = 0; c < columns_; ++c) copy[c] = static_cast<T>(row[c * step]);
    return copy;
  }

  // Where the last vector ends that has a column.
  template <typename V>
  SSD_SIMD_BODY int64_t end_of_columns() const {
    return (columns_ + kLanesOf<V> - 1) / kLanesOf<V> * kLanesOf<V>;
  }

  // Numbers of columns [c, c + width), -inf where cap is, else as they are but NaN as +inf: one instruction.
  template <typename V>
  SSD_SIMD_BODY static V capped(const T* x, const std::vector<T>& cap, int64_t c) {
    return min_of(load_pack<V>(x + c), load_pack<V>(cap.data() + c));
  }

  template <typename V>
  SSD_SIMD_BODY bool may_have_candidate(const T* x) const {
    if (!may_skip_) return true;
    V largest = capped<V>(x, foreground_cap_, 0);
    for (int64_t c = kLanesOf<V>; c < end_of_columns<V>(); c += kLanesOf<V>) {
      largest = max_of(capped<V>(x, foreground_cap_, c), largest);
    }
    const T below = background_ < 0 ? options_.skip_below : x[background_] + options_.skip_below;
    return compare_bits<true>(largest, V{} + below) != 0;
  }

  // Fills e[padded C] with numbers whose quotient by the result is the score.
  template <typename V>
  SSD_SIMD_BODY T numerators(const T* x, T* e) const {
    constexpr int kWidth = sizeof(V) / sizeof(T);
    if (options_.scores == ScoreKind::kGiven) {
      std::copy(x, x + columns_, e);
      return T(1);
    }
    if (options_.scores == ScoreKind::kSigmoid) {
      for (int64_t c = 0; c < end_of_columns<V>(); c += kWidth) {
        store_pack(e + c, T(1) / (T(1) + exp_fixed_pack(-load_pack<V>(x + c))));
      }
      return T(1);
    }
    const auto larger = [](auto a, auto b) { return max_of(a, b); };
    const int64_t end = end_of_columns<V>();
    V largest = capped<V>(x, columns_cap_, 0);
    for (int64_t c = kWidth; c < end; c += kWidth) {
      largest = max_of(capped<V>(x, columns_cap_, c), largest);
    }
    const T top = fold<T>(largest, larger);
    constexpr int kParts = kScanLanes / kWidth;
    V sums[kParts] = {};
    for (int64_t c = 0; c < end; c += kScanLanes) {
      SSD_UNROLL
      for (int u = 0; u < kParts; ++u) {
        if (c + u * kWidth >= end) break;  // there the terms are 0
        const V v = capped<V>(x, columns_cap_, c + u * kWidth) - top;
        store_pack(e + c + u * kWidth, exp_negative_pack(v));
        sums[u] = add_exp_negative_pack(sums[u], v);
      }
    }
    for (int parts = kParts / 2; parts > 0; parts /= 2) {
      for (int u = 0; u < parts; ++u) sums[u] += sums[u + parts];
    }
    return fold<T>(sums[0], [](auto a, auto b) { return a + b; });
  }

  template <typename V>
  SSD_SIMD_BODY void scan_row(const T* x, int64_t prior, T* e, CandidateSink<T>& sink) const {
    constexpr int kWidth = kLanesOf<V>;
    const T sum = numerators<V>(x, e);
    // A little below the limit: the exact test is the sink's, on the rounded quotient.
    const T scale = options_.scores == ScoreKind::kGiven ? T(1) : sum * T(1 - 1e-6);
    const int64_t end = end_of_columns<V>();
    for (int64_t first = 0; first < end; first += 64) {  // one branch for 64 columns
      uint64_t passes = 0;
      for (int64_t c = first; c < end && c < first + 64; c += kWidth) {
        const V least = load_pack<V>(sink.limits.data() + c) * scale;
        passes |= uint64_t{compare_bits<true>(load_pack<V>(e + c), least)} << (c - first);
      }
      for (; passes != 0; passes &= passes - 1) {
        const int64_t label = first + __builtin_ctzll(passes);
        sink.offer(e[label] / sum, label, prior);
      }
    }
  }

  const DetectOptions<T>& options_;
  const DetectInputs<T, S>& inputs_;
  int64_t columns_, padded_;
  bool may_skip_;
  int64_t background_ = -1;  // softmax: the column that skip_below is added to
  const S* end_;
  std::vector<T> columns_cap_, foreground_cap_;  // [padded C], +inf of those columns, else -inf
};

}  // namespace ssd_cuda
