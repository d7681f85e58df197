// The fused MultiBox loss on the CPU, of a batch.
//
// Forward: tiles of kTileRows priors give a key per prior and partial sums; then one selection per image; all
// sums are added in double in the order of the tiles, so any number of threads gives the same bits.
// Backward: the gradients are zero pages; only the rows that count are read again and written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/cpu/parallel.h"
#include "mining/cpu/row_selector.h"
#include "multibox/multibox_rule.h"
#include "softmax_rows.h"

namespace ssd_cuda {

// All that a kernel reads, for logits of storage type S.
template <typename S>
struct Batch {
  using T = acc_t<S>;
  using U = Ordered<T>;
  Logits<S> conf;
  Logits<S> loc;  // 4 "classes"
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width;
  T class_total = 0;  // ClassTerms::total

  Vec4<T> loc_row(int64_t image, int64_t p) const {
    const S* row = loc.row(image, p);
    const int64_t s = loc.class_stride;
    return {static_cast<T>(row[0]), static_cast<T>(row[s]), static_cast<T>(row[2 * s]),
            static_cast<T>(row[3 * s])};
  }

  Vec4<T> loc_target(int64_t image, int64_t p) const {
    Vec4<T> target;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      target = targets.template loc_target<NumberOps<decltype(bytes)::value>>(image, p);
    });
    return target;
  }

  Graded<T> box_loss(int64_t image, int64_t p) const {
    Graded<T> loss;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      loss = targets.template box_loss<NumberOps<decltype(bytes)::value>>(
          image, p, loc_row(image, p), rule.loss.loc);
    });
    return loss;
  }

  // The localisation term of one row, without loc_factor.
  double loc_term(int64_t image, int64_t p) const {
    if (is_box_loss(rule.loss.loc)) return box_loss(image, p).value;
    const Vec4<T> x = loc_row(image, p), t = loc_target(image, p);
    const T beta = static_cast<T>(rule.loss.beta);
    return static_cast<double>(smooth_l1(x.x - t.x, beta)) + smooth_l1(x.y - t.y, beta) +
           smooth_l1(x.z - t.z, beta) + smooth_l1(x.w - t.w, beta);
  }

  // Its gradient by loc.
  Vec4<T> loc_gradient(int64_t image, int64_t p) const {
    if (is_box_loss(rule.loss.loc)) return box_loss(image, p).gradient;
    const Vec4<T> x = loc_row(image, p), t = loc_target(image, p);
    const T beta = static_cast<T>(rule.loss.beta);
    return {smooth_l1_gradient(x.x - t.x, beta), smooth_l1_gradient(x.y - t.y, beta),
            smooth_l1_gradient(x.z - t.z, beta), smooth_l1_gradient(x.w - t.w, beta)};
  }
};

// The loss of row `begin + i` of a filled tile at any class, NaN at a negative one.
template <typename S>
acc_t<S> loss_at(const Batch<S>& batch, int64_t image, int64_t begin, int64_t i, int64_t label,
                 const RowTile<acc_t<S>>& tile) {
  const auto& terms = batch.targets.terms;
  const auto plain = cross_entropy_at(batch.conf, image, begin, i, label, tile);
  if (!terms.any()) return plain;
  const auto shifted = terms.smooth() ? tile.shifted[i] : 0;
  return terms.loss(plain, label, tile.log_sum[i], batch.class_total, shifted);
}

// Fills the tile with the losses of its rows as negatives, and keys with what they are ranked by.
template <typename S>
void rank_rows(const Batch<S>& batch, int64_t image, int64_t begin, int64_t count,
               std::vector<acc_t<S>>* scratch, RowTile<acc_t<S>>* tile, Ordered<acc_t<S>>* keys) {
  const auto& terms = batch.targets.terms;
  const int64_t background = batch.rule.label.background;
  cross_entropy_rows(batch.conf, image, begin, count, background, terms, scratch, tile);
  if (!terms.any() || batch.targets.keeps_losses(batch.rule.loss)) {
    order_keys(tile->losses, count, keys);
  }
  if (!terms.any()) return;
  for (int64_t i = 0; i < count; ++i) {
    const auto shifted = terms.smooth() ? tile->shifted[i] : 0;
    tile->losses[i] =
        terms.loss(tile->losses[i], background, tile->log_sum[i], batch.class_total, shifted);
  }
  if (!batch.targets.keeps_losses(batch.rule.loss)) order_keys(tile->losses, count, keys);
}

// marks[i] |= whether prior place + i is no plain negative. Nearly all are: code -1, or the background as ready target, unless
// that is the ignored label as well.
template <typename T>
void mark_others(const Targets<T>& targets, const LabelRule& rule, int64_t place, int64_t count,
                 bool* marks) {
  const int64_t background = rule.given_background();
  const bool ignored = rule.has_ignore && rule.ignore == background;
  if (targets.codes != nullptr) {
    for (int64_t i = 0; i < count; ++i) marks[i] |= targets.codes[place + i] != -1;
  } else {
    for (int64_t i = 0; i < count; ++i) {
      marks[i] |= ignored || targets.labels[place + i] != background;
    }
  }
}

// Keys and sums of priors [begin, end) of an image, before the selection. losses: [P] of the image, what they are as
// negatives, or null.
template <typename S>
ImageSums run_tile(const Batch<S>& batch, int64_t image, int64_t begin, int64_t end,
                   std::vector<acc_t<S>>* scratch, Ordered<acc_t<S>>* keys, acc_t<S>* losses) {
  using T = acc_t<S>;
  ImageSums sums{};
  const int64_t count = end - begin, background = batch.rule.label.background;
  RowTile<T> tile;
  rank_rows(batch, image, begin, count, scratch, &tile, keys + begin);
  if (losses != nullptr) std::copy_n(tile.losses, count, losses + begin);
  bool others[kTileRows] = {};
  mark_others(batch.targets, batch.rule.label, image * batch.width + begin, count, others);
  sums.candidates = count;
  for_each_marked(others, count, [&](int64_t i) {
    const int64_t p = begin + i;
    const auto [kind, label] = batch.targets.row(image, p, batch.rule.label);
    T loss = tile.losses[i];
    if (label != background) {
      loss = loss_at(batch, image, begin, i, label, tile);
      keys[p] = ordered_key(loss);
    }
    sums.candidates -= !is_candidate(kind);
    if (is_localized(kind)) {
      ++sums.localized;
      sums.loc += batch.loc_term(image, p);
    }
    if (kind == RowKind::kPositive) {
      ++sums.positives;
      sums.conf += loss;
      keys[p] = positive_key<T>(batch.rule.mining);
    }
    if (kind == RowKind::kIgnored) keys[p] = ignored_key<T>(batch.rule.label);
  });
  return sums;
}

// Adds what the selected rows of one image contribute. losses: as in run_tile; null: the keys are the losses.
template <typename S>
void add_selected(const Batch<S>& batch, int64_t image, const Ordered<acc_t<S>>* keys,
                  const acc_t<S>* losses, RowCut<Ordered<acc_t<S>>> cut,
                  std::vector<int64_t>* reached, ImageSums* sums) {
  using T = acc_t<S>;
  using U = Ordered<T>;
  std::vector<T> scratch;
  RowTile<T> tile;
  const auto fill = positive_key<T>(batch.rule.mining);
  const int64_t count =
      list_in_range(keys, batch.width, least_selected(cut), ~U(0), reached->data());
  for (int64_t j = 0; j < count; ++j) {
    const int64_t p = (*reached)[j];
    if (!is_selected(keys[p], p, cut)) continue;
    // A negative or an ignored row may share the key of the positives: only its target tells.
    if (keys[p] == fill) {
      const Row row = batch.targets.row(image, p, batch.rule.label);
      if (row.kind == RowKind::kIgnored) continue;
      if (row.kind == RowKind::kPositive) {
        if (!batch.rule.loss.positives_twice) continue;
        cross_entropy_rows(batch.conf, image, p, 1, batch.rule.label.background,
                           batch.targets.terms, &scratch, &tile);
        sums->conf += loss_at(batch, image, p, 0, row.label, tile);
        continue;
      }
    }
    ++sums->negatives;
    sums->conf += losses != nullptr ? losses[p] : key_value<T>(keys[p]);
  }
}

// The cut of a batch that is ranked as a whole; sums: of its images.
template <typename S>
RowCut<Ordered<acc_t<S>>> select_batch(const Batch<S>& batch, const Ordered<acc_t<S>>* keys,
                                       const std::vector<ImageSums>& sums) {
  const int64_t rows = batch.images * batch.width;
  ImageSums total{};
  for (const ImageSums& image : sums) total.add(image);
  const int64_t k = num_hard_negatives(batch.rule.mining, total.positives, total.candidates, rows);
  return RowSelector<Ordered<acc_t<S>>>().select(keys, rows, k);
}

// Keys and cuts of every image; sums: [B], zeros at first.
template <typename S>
void select_images(const Batch<S>& batch, Ordered<acc_t<S>>* keys, int64_t* cuts,
                   std::vector<ImageSums>* sums) {
  using T = acc_t<S>;
  using U = Ordered<T>;
  const int64_t tiles = (batch.width + kTileRows - 1) / kTileRows;
  std::vector<ImageSums> partial(batch.images * tiles);
  const bool kept = batch.targets.keeps_losses(batch.rule.loss);
  std::vector<T> losses(kept ? batch.images * batch.width : 0);
  const auto losses_of = [&](int64_t image) {
    return kept ? losses.data() + image * batch.width : nullptr;
  };
  parallel_ranges(batch.images * tiles, [&](int64_t first, int64_t last) {
    std::vector<acc_t<S>> scratch;
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / tiles, begin = i % tiles * kTileRows;
      const int64_t end = std::min(begin + kTileRows, batch.width);
      U* row = keys + image * batch.width;
      partial[i] = run_tile(batch, image, begin, end, &scratch, row, losses_of(image));
    }
  });
  for (int64_t i = 0; i < batch.images * tiles; ++i) (*sums)[i / tiles].add(partial[i]);
  const bool whole = batch.rule.mining.scope == MiningScope::kBatch;
  const RowCut<U> of_batch = whole ? select_batch(batch, keys, *sums) : empty_cut<U>();
  parallel_ranges(batch.images, [&](int64_t first, int64_t last) {
    RowSelector<U> selector;
    std::vector<int64_t> reached(batch.width);
    for (int64_t image = first; image < last; ++image) {
      ImageSums& total = (*sums)[image];
      const U* row = keys + image * batch.width;
      const int64_t k =
          num_hard_negatives(batch.rule.mining, total.positives, total.candidates, batch.width);
      const RowCut<U> cut =
          whole ? image_cut(of_batch, image, batch.width) : selector.select(row, batch.width, k);
      add_selected(batch, image, row, losses_of(image), cut, &reached, &total);
      cuts[2 * image] = static_cast<int64_t>(cut.threshold);
      cuts[2 * image + 1] = cut.tie;
    }
  });
}

// The two losses of the batch, its number of positives and the scales [B] of its images.
template <typename S>
void sum_images(const Batch<S>& batch, const std::vector<ImageSums>& sums,
                const LossOutputs<acc_t<S>>& to) {
  using T = acc_t<S>;
  Denominator denominator{};
  for (const ImageSums& image : sums) denominator.add(image);
  double loc_total = 0, conf_total = 0;
  for (int64_t b = 0; b < batch.images; ++b) {
    const double scale = image_scale(batch.rule.loss, denominator, sums[b].localized, batch.images);
    loc_total += image_share(sums[b].loc, scale);
    conf_total += image_share(sums[b].conf, scale);
    to.scales[b] = static_cast<T>(scale);
  }
  *to.localization = static_cast<T>(loc_total * batch.rule.loss.loc_factor);
  *to.classification = static_cast<T>(conf_total);
  *to.num_positives = denominator.localized;
}

template <typename S>
void run_forward(const Batch<S>& batch, const LossOutputs<acc_t<S>>& to) {
  std::vector<ImageSums> sums(batch.images);
  select_images(batch, to.keys, to.cuts, &sums);
  sum_images(batch, sums, to);
}

template <typename S>
void run_backward(const Batch<S>& batch, const LossSelection<acc_t<S>>& from,
                  const Logits<S>& d_loc, const Logits<S>& d_conf) {
  using T = acc_t<S>;
  using U = Ordered<T>;
  const U* const keys = from.keys;
  const int64_t* const cuts = from.cuts;
  const T* const scales = from.scales;
  const T grad_loc = *from.grad_loc, grad_conf = *from.grad_conf;
  const int64_t tiles = (batch.width + kTileRows - 1) / kTileRows;
  parallel_ranges(batch.images * tiles, [&](int64_t first, int64_t last) {
    std::vector<T> scratch;
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / tiles, begin = i % tiles * kTileRows;
      const int64_t end = std::min(begin + kTileRows, batch.width);
      const RowCut<U> cut{static_cast<U>(cuts[2 * image]), cuts[2 * image + 1]};
      const T loc_scale = static_cast<T>(grad_loc * batch.rule.loss.loc_factor * scales[image]);
      const int64_t place = image * batch.width + begin;
      bool marks[kTileRows];  // those that may have a gradient
      mark_selected(keys + place, end - begin, {cut.threshold, cut.tie - begin}, marks);
      mark_others(batch.targets, batch.rule.label, place, end - begin, marks);
      int32_t rows[kTileRows];
      int num_rows = 0;
      for_each_marked(marks, end - begin,
                      [&](int64_t r) { rows[num_rows++] = static_cast<int32_t>(begin + r); });
      for (int j = 0; j < num_rows; ++j) {  // few and far apart: let their misses overlap
        for (int64_t c = 0; c < batch.conf.num_classes; c += 64 / sizeof(S)) {
          __builtin_prefetch(batch.conf.row(image, rows[j]) + c * batch.conf.class_stride);
          __builtin_prefetch(d_conf.row(image, rows[j]) + c * d_conf.class_stride, 1);
        }
      }
      for (int j = 0; j < num_rows; ++j) {
        const int64_t p = rows[j];
        const Row row = batch.targets.row(image, p, batch.rule.label);
        const int weight = row_weight(row.kind, keys[image * batch.width + p], p, cut,
                                      batch.rule.loss.positives_twice);
        if (weight > 0 && scales[image] != T(0)) {
          cross_entropy_row_backward(
              batch.conf.row(image, p), batch.conf.class_stride, batch.conf.num_classes, row.label,
              batch.targets.terms, batch.class_total, weight * grad_conf * scales[image], &scratch,
              const_cast<S*>(d_conf.row(image, p)), d_conf.class_stride);
        }
        if (is_localized(row.kind) && scales[image] != T(0)) {
          const Vec4<T> gradient = batch.loc_gradient(image, p);
          S* out_row = const_cast<S*>(d_loc.row(image, p));
          out_row[0] = static_cast<S>(loc_scale * gradient.x);
          out_row[d_loc.class_stride] = static_cast<S>(loc_scale * gradient.y);
          out_row[2 * d_loc.class_stride] = static_cast<S>(loc_scale * gradient.z);
          out_row[3 * d_loc.class_stride] = static_cast<S>(loc_scale * gradient.w);
        }
      }
    }
  });
}

}  // namespace ssd_cuda
