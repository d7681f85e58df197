// The focal loss on the CPU, of a batch.
//
// Forward: what each row is, then one read of the logits. Sigmoid form: chunks of memory, every number as a negative's, the few
// others put right afterwards. Softmax form: the cross entropies of the MultiBox loss, then the focal factor of each row,
// which the backward needs again with the row's largest logit and log-sum.
// Backward: one read and one write of whole chunks, number by number: no row is summed twice.
#pragma once

#include <algorithm>
#include <vector>

#include "chunks.h"
#include "common/cpu/parallel.h"

namespace ssd_cuda {

template <typename S>
struct FocalBatch {
  using T = acc_t<S>;
  Logits<S> loc;  // 4 "classes"
  ChunkedLogits<S> conf;
  Targets<T> targets;
  FocalRule<T> rule;
  int64_t images, width;

  Vec4<T> difference(int64_t image, int64_t p) const {
    const S* row = loc.row(image, p);
    const int64_t s = loc.class_stride;
    Vec4<T> t;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      t = targets.template loc_target<NumberOps<decltype(bytes)::value>>(image, p);
    });
    return {static_cast<T>(row[0]) - t.x, static_cast<T>(row[s]) - t.y,
            static_cast<T>(row[2 * s]) - t.z, static_cast<T>(row[3 * s]) - t.w};
  }
};

// What the rows of an image are: their columns, their number, and its localisation loss.
template <typename S>
ImageSums read_rows(const FocalBatch<S>& batch, int64_t image, int32_t* columns,
                    std::vector<double>* terms) {
  using T = acc_t<S>;
  ImageSums sums{};
  std::fill(terms->begin(), terms->end(), 0.0);
  for (int64_t p = 0; p < batch.width; ++p) {
    const Row row = batch.targets.row(image, p, batch.rule.label);
    columns[p] = true_column(row, batch.rule);
    sums.positives += row.kind == RowKind::kPositive;
    sums.negatives += is_candidate(row.kind);
    if (!is_localized(row.kind)) continue;
    ++sums.localized;
    (*terms)[p] =
        localization_term(batch.difference(image, p), static_cast<T>(batch.rule.loss.beta));
  }
  sums.loc =
      sums.localized > 0 ? sum_of_image(batch.width, [&](int64_t p) { return (*terms)[p]; }) : 0.0;
  return sums;
}

// parts[chunk] of chunks [first, last), counted over the batch.
template <typename S>
void sigmoid_chunks(const FocalBatch<S>& batch, const int32_t* columns, int64_t first, int64_t last,
                    double* parts) {
  using T = acc_t<S>;
  const int64_t chunks = batch.conf.chunks(), size = batch.conf.size();
  const FocalTerm<T> term = batch.rule.term;
  T buffer[kChunkRoom], losses[kChunkRoom];
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
    using Ops = NumberOps<decltype(bytes)::value>;
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / chunks, begin = i % chunks * kFocalChunk;
      const int64_t end = std::min(begin + kFocalChunk, size);
      const T* x = batch.conf.template load<V>(image, begin, end, buffer);
      for (int64_t j = 0; j < end - begin; j += kLanesOf<V>) {
        const SigmoidFocal<PackOps, T, V> focal(term, -load_pack<V>(x + j));
        store_pack(losses + j, focal.value(term.alpha_negative));
      }
      batch.conf.each_special(
          columns + image * batch.width, begin, end, [&](int64_t j, int32_t column) SSD_SIMD_BODY {
            if (column < 0) {
              losses[j] = column == kIgnoredColumn ? T(0) : T(NAN);
            } else {
              losses[j] = SigmoidFocal<Ops, T, T>(term, x[j]).value(term.alpha_positive);
            }
          });
      parts[i] = sum_of_chunk<V>(losses, end - begin);
    }
  });
}

// parts[row] and stats of rows [begin, begin + count) of an image, at most kTileRows. stats: [3, B P], row: the first one's
// place.
template <typename S>
void softmax_tile(const FocalBatch<S>& batch, const FocalOutputs<acc_t<S>>& to, int64_t image,
                  int64_t begin, int64_t count, std::vector<acc_t<S>>* scratch, double* parts) {
  using T = acc_t<S>;
  const int64_t place = image * batch.width + begin, rows = batch.images * batch.width;
  const auto background = static_cast<int32_t>(batch.rule.label.background);
  const int32_t* columns = to.columns + place;
  const FocalTerm<T> term = batch.rule.term;
  RowTile<T> tile;
  cross_entropy_rows(batch.conf.logits, image, begin, count, background, ClassTerms<T>{}, scratch,
                     &tile);
  T alphas[RowTile<T>::kRoom], factors[RowTile<T>::kRoom];
  for (int64_t i = 0; i < count; ++i) {
    const int32_t column = columns[i];
    alphas[i] = term.alpha(column != background);
    if (column == background || column == kIgnoredColumn) continue;
    tile.losses[i] = cross_entropy_at(batch.conf.logits, image, begin, i, column, tile);
  }
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
    for (int64_t i = 0; i < count; i += kLanesOf<V>) {
      const SoftmaxFocal<PackOps, V> focal(term, load_pack<V>(alphas + i),
                                           load_pack<V>(tile.losses + i));
      store_pack(tile.losses + i, focal.value);
      store_pack(factors + i, focal.factor);
    }
  });
  for (int64_t i = 0; i < count; ++i) {
    const bool ignored = columns[i] == kIgnoredColumn;
    parts[place + i] = ignored ? 0.0 : static_cast<double>(tile.losses[i]);
    to.stats[place + i] = tile.largest[i];
    to.stats[rows + place + i] = tile.log_sum[i];
    to.stats[2 * rows + place + i] = ignored ? T(0) : factors[i];
  }
}

// The two losses of the batch, its number of positives and the scales [B] of its images.
template <typename T>
void sum_focal(const LossRule& rule, const std::vector<ImageSums>& sums,
               const FocalOutputs<T>& to) {
  const auto images = static_cast<int64_t>(sums.size());
  Denominator denominator{};
  for (const ImageSums& image : sums) denominator.add(image);
  double loc[32] = {}, conf[32] = {};
  for (int64_t b = 0; b < images; ++b) {
    const double scale = image_scale(rule, denominator, sums[b].localized, images);
    loc[b % 32] += image_share(sums[b].loc, scale);
    conf[b % 32] += image_share(sums[b].conf, scale);
    to.scales[b] = static_cast<T>(scale);
  }
  *to.localization = static_cast<T>(join_lanes(loc) * rule.loc_factor);
  *to.classification = static_cast<T>(join_lanes(conf));
  *to.num_positives = denominator.localized;
}

template <typename S>
void run_focal(const FocalBatch<S>& batch, const FocalOutputs<acc_t<S>>& to) {
  using T = acc_t<S>;
  const int64_t classes = batch.conf.logits.num_classes, width = batch.width;
  const int64_t count = focal_parts(batch.rule.softmax, width, classes);
  std::vector<ImageSums> sums(batch.images);
  parallel_ranges(batch.images, [&](int64_t first, int64_t last) {
    std::vector<double> terms(width);
    for (int64_t b = first; b < last; ++b) {
      sums[b] = read_rows(batch, b, to.columns + b * width, &terms);
    }
  });
  std::vector<double> parts(batch.images * count);
  if (batch.rule.softmax) {
    const int64_t tiles = (width + kTileRows - 1) / kTileRows;
    parallel_ranges(batch.images * tiles, [&](int64_t first, int64_t last) {
      std::vector<T> scratch;
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % tiles * kTileRows;
        softmax_tile(batch, to, i / tiles, begin, std::min(kTileRows, width - begin), &scratch,
                     parts.data());
      }
    });
  } else {
    parallel_ranges(batch.images * count, [&](int64_t first, int64_t last) {
      sigmoid_chunks(batch, to.columns, first, last, parts.data());
    });
  }
  for (int64_t b = 0; b < batch.images; ++b) {
    const double* own = parts.data() + b * count;
    sums[b].conf = sum_of_image(count, [&](int64_t i) { return own[i]; });
  }
  sum_focal(batch.rule.loss, sums, to);
}

}  // namespace ssd_cuda
