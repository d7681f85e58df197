// The selections of a batch of rows on the CPU.
#pragma once

#include <limits>
#include <vector>

#include "common/cpu/parallel.h"
#include "row_selector.h"

namespace ssd_cuda {

// keys: [B, P], ks: [B].
template <typename S>
void select_rows(const S* keys, const int64_t* ks, int64_t batch, int64_t width,
                 const SelectedRows<S>& to) {
  using T = acc_t<S>;
  parallel_ranges(batch, [&](int64_t begin, int64_t end) {
    RowSelector<Ordered<T>> selector;
    std::vector<Ordered<T>> ordered(width);
    for (int64_t b = begin; b < end; ++b) {
      const S* row = keys + b * width;
      bool* marks = to.mask + b * width;
      order_keys(row, width, ordered.data());
      const auto cut = selector.select(ordered.data(), width, ks[b]);
      mark_selected(ordered.data(), width, cut, marks);
      double total = 0;
      int64_t selected = 0;
      for_each_marked(marks, width, [&](int64_t i) {
        total += static_cast<T>(row[i]);
        ++selected;
      });
      to.threshold[b] = static_cast<S>(cut.tie < 0 ? std::numeric_limits<T>::infinity()
                                                   : key_value<T>(cut.threshold));
      to.tie[b] = cut.tie;
      to.count[b] = selected;
      to.sum[b] = static_cast<T>(total);
    }
  });
}

// keys, positives, mask: [B, P]; candidates: [B, P] or null.
template <typename S>
void select_negative_rows(const MiningRule& rule, const S* keys, const bool* positives,
                          const bool* candidates, int64_t batch, int64_t width, bool* mask) {
  using T = acc_t<S>;
  using U = Ordered<T>;
  parallel_ranges(batch, [&](int64_t begin, int64_t end) {
    RowSelector<U> selector;
    std::vector<U> ordered(width);
    for (int64_t b = begin; b < end; ++b) {
      const bool* positive = positives + b * width;
      const bool* candidate = candidates ? candidates + b * width : nullptr;
      order_keys(keys + b * width, width, ordered.data());
      int64_t num_candidates = 0;
      for (int64_t i = 0; candidate != nullptr && i < width; ++i) {
        num_candidates += candidate[i] && !positive[i];
        if (!candidate[i]) ordered[i] = kExcluded<U>;
      }
      int64_t num_positives = 0;
      for_each_marked(positive, width, [&](int64_t i) {
        ordered[i] = positive_key<T>(rule);
        ++num_positives;
      });
      if (candidate == nullptr) num_candidates = width - num_positives;
      const int64_t k = num_hard_negatives(rule, num_positives, num_candidates, width);
      const auto cut = selector.select(ordered.data(), width, k);
      mark_selected(ordered.data(), width, cut, mask + b * width);
    }
  });
}

}  // namespace ssd_cuda
