// Matching on the CPU, from the images of a batch to their codes.
//
// Work is cut into (image, tile of priors) pairs. Each leaves the codes of its priors by threshold and the
// best prior of every ground truth within its tile; a second pass, one image a task, merges the tiles
// (BestPrior::merge is order-free) and applies the forced matches.
#pragma once

#include <algorithm>
#include <vector>

#include "common/cpu/parallel.h"
#include "tile_matcher.h"

namespace ssd_cuda {

constexpr int64_t kTilePriors = 2048;  // at least; a multiple of every group
constexpr int64_t kMaxTiles = 64;

// Each truth takes its best prior; of several that claim one the last has it.
template <typename T>
void force_argmax(const MatchRule<T>& rule, const std::vector<Truth<T>>& truths,
                  const std::vector<BestPrior<T>>& tops, int32_t* codes) {
  for (const Truth<T>& truth : truths) {
    const BestPrior<T>& top = tops[truth.index];
    if (top.prior >= 0 && rule.is_forced(top.overlap)) codes[top.prior] = truth.index;
  }
  if (!rule.relabel_unforced) return;
  for (const Truth<T>& truth : truths) {
    const BestPrior<T>& top = tops[truth.index];
    if (top.prior >= 0 && codes[top.prior] >= 0) codes[top.prior] = truth.index;
  }
}

// Greedy: the largest overlap among free truths and free priors makes a pair, until none exceeds forced_min.
// A truth looks for a new prior only when the one it held is taken.
template <typename T>
void force_bipartite(const MatchRule<T>& rule, const PriorTable<T>& table, int64_t priors,
                     std::vector<Truth<T>>& truths, std::vector<BestPrior<T>>& tops,
                     int32_t* codes) {
  std::vector<char> taken(priors, 0);
  const auto usable = [&](const BestPrior<T>& top) {
    return top.prior >= 0 && top.overlap > rule.forced_min;  // false for NaN
  };
  const auto search = [&](const Truth<T>& truth) {
    BestPrior<T> top{T(0), -1};
    for (int64_t p = 0; p < priors; ++p) {
      const T value = rule.overlap(truth.box, truth.area, table.corners(p), table.area[p]);
      if (taken[p] || value != value) continue;
      top.merge({value, static_cast<IndexOf<T>>(p)}, rule.tie_last);
    }
    return top;
  };
  for (const Truth<T>& truth : truths) {
    BestPrior<T>& top = tops[truth.index];
    if (top.overlap != top.overlap) top = search(truth);  // a NaN makes no pair
  }
  while (!truths.empty()) {
    Pair<T> best{{T(0), -1}, -1};
    for (const Truth<T>& truth : truths) {
      const BestPrior<T>& top = tops[truth.index];
      if (usable(top)) best.merge({top, truth.index}, rule.tie_last);
    }
    if (best.truth < 0) return;
    codes[best.top.prior] = static_cast<int32_t>(best.truth);
    taken[best.top.prior] = 1;
    std::erase_if(truths, [&](const Truth<T>& truth) { return truth.index == best.truth; });
    for (const Truth<T>& truth : truths) {
      if (tops[truth.index].prior == best.top.prior) tops[truth.index] = search(truth);
    }
  }
}

// Everything of one call.
template <typename T>
class MatchCall {
 public:
  explicit MatchCall(const MatchProblem<T>& problem) : call_(problem) {}

  void run() const {
    const int64_t tile = tile_size(), tiles = (call_.num_priors + tile - 1) / tile;
    std::vector<PriorTable<T>> tables(call_.per_image ? call_.batch : 1);
    for (auto& table : tables) table.resize(call_.num_priors);
    const int64_t per_table = static_cast<int64_t>(tiles);
    parallel_grains(static_cast<int64_t>(tables.size()) * per_table, 1, [&](int64_t i, int64_t) {
      fill(tables[i / per_table], i / per_table, i % per_table, tile);
    });
    std::vector<BestPrior<T>> tops(call_.rule.forced == Forced::kNone ? 0 : call_.rows * tiles);
    parallel_grains(call_.batch * tiles, 1, [&](int64_t i, int64_t) {
      match_tile(tables[call_.per_image ? i / tiles : 0], i / tiles, i % tiles, tile, tops);
    });
    if (call_.rule.forced == Forced::kNone) return;
    parallel_grains(call_.batch, 1, [&](int64_t b, int64_t) {
      force(tables[call_.per_image ? b : 0], b, tiles, tops);
    });
  }

 private:
  int64_t tile_size() const {
    const int64_t wanted = (call_.num_priors + kMaxTiles - 1) / kMaxTiles;
    const int64_t unit = kTilePriors;
    return std::max<int64_t>(unit, (wanted + unit - 1) / unit * unit);
  }

  void fill(PriorTable<T>& table, int64_t image, int64_t t, int64_t tile) const {
    const int64_t first = t * tile / kGroup<T>;
    table.fill(call_.priors + image * call_.num_priors, call_.num_priors, call_.rule, first,
               std::min(first + tile / kGroup<T>, table.groups));
  }

  // tops: [tiles, rows], written for this image's truths at row t.
  void match_tile(const PriorTable<T>& table, int64_t b, int64_t t, int64_t tile,
                  std::vector<BestPrior<T>>& tops) const {
    static thread_local TileScratch<T> scratch;
    static thread_local std::vector<BestPrior<T>> unwanted;
    const TruthRange range = truth_range(call_.offsets, b, call_.rows);
    const bool safe = gather_truths(call_.boxes, range, call_.rule, scratch.truths);
    BestPrior<T>* top = nullptr;
    if (tops.empty()) {
      unwanted.resize(range.count);
      top = unwanted.data();
    } else {
      top = tops.data() + t * call_.rows + range.begin;
    }
    const int64_t begin = t * tile, end = std::min(begin + tile, call_.num_priors);
    TileMatcher<T>(call_.rule, table, scratch, begin, end)
        .run(safe, call_.codes + b * call_.num_priors, top);
  }

  void force(const PriorTable<T>& table, int64_t b, int64_t tiles,
             const std::vector<BestPrior<T>>& tops) const {
    std::vector<Truth<T>> truths;
    const TruthRange range = truth_range(call_.offsets, b, call_.rows);
    gather_truths(call_.boxes, range, call_.rule, truths);
    std::vector<BestPrior<T>> merged(range.count, BestPrior<T>{T(0), -1});
    for (const Truth<T>& truth : truths) {
      for (int64_t t = 0; t < tiles; ++t) {
        merged[truth.index].merge(tops[t * call_.rows + range.begin + truth.index],
                                  call_.rule.tie_last);
      }
    }
    int32_t* row = call_.codes + b * call_.num_priors;
    if (call_.rule.forced == Forced::kArgmax) {
      force_argmax(call_.rule, truths, merged, row);
    } else {
      force_bipartite(call_.rule, table, call_.num_priors, truths, merged, row);
    }
  }

  MatchProblem<T> call_;
};

}  // namespace ssd_cuda
