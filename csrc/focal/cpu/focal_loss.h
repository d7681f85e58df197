// The focal loss on the CPU, of a batch.
//
// What each row is, then one read of the logits. Sigmoid form: chunks of memory, every number as a negative's, the few
// others put right afterwards. Softmax form: the cross entropies of the MultiBox loss, then the focal factor of each row,
// which the backward needs again with the row's largest logit and its sum.
// Where they are asked for, the gradients of factors 1 are made from the same exps and written then: two passes over
// memory instead of three. What divides the loss is known after the rows are read, before the logits are.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "focal_backward.h"
#include "softmax_tile.h"

namespace ssd_cuda {

// Where the gradients of a loss with factors of 1 go: zeros, laid out as loc and conf. None where conf is null.
template <typename S>
struct FocalGradients {
  Logits<S> loc;
  S* conf;
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

// parts[chunk] of chunks [first, last), counted over the batch, and their gradients if there is a place for them.
template <typename S>
void sigmoid_chunks(const FocalBatch<S>& batch, const FocalOutputs<acc_t<S>>& to, int64_t first,
                    int64_t last, double* parts, S* gradients) {
  using T = acc_t<S>;
  const int64_t chunks = batch.conf.chunks(), size = batch.conf.size();
  const FocalTerm<T> term = batch.rule.term;
  T buffer[kChunkRoom], losses[kChunkRoom], slopes[kChunkRoom];
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
    using Ops = NumberOps<decltype(bytes)::value>;
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / chunks, begin = i % chunks * kFocalChunk;
      const int64_t end = std::min(begin + kFocalChunk, size);
      const int32_t* columns = to.columns + image * batch.width;
      const T scale = to.scales[image];
      const bool keeps = gradients != nullptr && scale != T(0);
      const T* x = batch.conf.template load<V>(image, begin, end, buffer);
      for (int64_t j = 0; j < end - begin; j += kLanesOf<V>) {
        const SigmoidFocal<PackOps, T, V> focal(term, -load_pack<V>(x + j));
        store_pack(losses + j, focal.value(term.alpha_negative));
        if (keeps) store_pack(slopes + j, focal.slope(term, term.alpha_negative) * (V{} + scale));
      }
      batch.conf.each_special(columns, begin, end, [&](int64_t j, int32_t column) SSD_SIMD_BODY {
        if (column < 0) {
          losses[j] = column == kIgnoredColumn ? T(0) : T(NAN);
        } else {
          losses[j] = SigmoidFocal<Ops, T, T>(term, x[j]).value(term.alpha_positive);
        }
      });
      parts[i] = sum_of_chunk<V>(losses, end - begin);
      if (!keeps) continue;
      special_slopes<Ops>(batch, columns, x, begin, end, scale, slopes);
      S* own = gradients + image * size + begin;
      for (int64_t j = 0; j < end - begin; ++j) own[j] = static_cast<S>(slopes[j]);
    }
  });
}

// parts[row] and stats of rows [begin, begin + count) of an image, at most kTileRows, and their gradients likewise. stats:
// [3, B P], scratch: [2].
template <typename S>
void softmax_rows(const FocalBatch<S>& batch, const FocalOutputs<acc_t<S>>& to, int64_t image,
                  int64_t begin, int64_t count, std::vector<acc_t<S>>* scratch, double* parts,
                  S* gradients) {
  using T = acc_t<S>;
  const int64_t place = image * batch.width + begin, rows = batch.images * batch.width;
  T* own = nullptr;
  if constexpr (std::is_same_v<S, T>) {
    if (gradients != nullptr) own = gradients + image * batch.conf.size();
  }
  SoftmaxTile<S> tile{.conf = batch.conf,
                      .term = batch.rule.term,
                      .background = batch.rule.label.background,
                      .image = image,
                      .begin = begin,
                      .count = count,
                      .columns = to.columns + place,
                      .scale = to.scales[image],
                      .gradients = own,
                      .block = &scratch[1]};
  tile.run(&scratch[0]);
  for (int64_t i = 0; i < count; ++i) {
    parts[place + i] = static_cast<double>(tile.rows.losses[i]);
    to.stats[place + i] = tile.rows.largest[i];
    to.stats[rows + place + i] = T(1) / tile.sums[i];
    to.stats[2 * rows + place + i] = tile.factors[i];
  }
}

// The number of positives, and what divides the sums of each image.
template <typename T>
std::vector<double> scales_of(const LossRule& rule, const std::vector<ImageSums>& sums,
                              const FocalOutputs<T>& to) {
  Denominator denominator{};
  for (const ImageSums& image : sums) denominator.add(image);
  *to.num_positives = denominator.localized;
  std::vector<double> scales;
  for (const ImageSums& image : sums) {
    scales.push_back(
        image_scale(rule, denominator, image.localized, static_cast<int64_t>(sums.size())));
    to.scales[scales.size() - 1] = static_cast<T>(scales.back());
  }
  return scales;
}

// The two losses of the batch.
template <typename T>
void sum_focal(const LossRule& rule, const std::vector<ImageSums>& sums,
               const std::vector<double>& scales, const FocalOutputs<T>& to) {
  double loc[32] = {}, conf[32] = {};
  for (std::size_t b = 0; b < sums.size(); ++b) {
    loc[b % 32] += image_share(sums[b].loc, scales[b]);
    conf[b % 32] += image_share(sums[b].conf, scales[b]);
  }
  *to.localization = static_cast<T>(join_lanes(loc) * rule.loc_factor);
  *to.classification = static_cast<T>(join_lanes(conf));
}

template <typename S>
void run_focal(const FocalBatch<S>& batch, const FocalOutputs<acc_t<S>>& to,
               const FocalGradients<S>& gradients) {
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
  const std::vector<double> scales = scales_of(batch.rule.loss, sums, to);
  // All of it is written, by the threads: a vector would be cleared by this one first.
  const auto parts = std::make_unique_for_overwrite<double[]>(batch.images * count);
  if (batch.rule.softmax) {
    const int64_t tiles = (width + kTileRows - 1) / kTileRows;
    parallel_ranges(batch.images * tiles, [&](int64_t first, int64_t last) {
      std::vector<T> scratch[2];
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i % tiles * kTileRows;
        softmax_rows(batch, to, i / tiles, begin, std::min(kTileRows, width - begin), scratch,
                     parts.get(), gradients.conf);
      }
    });
  } else {
    parallel_ranges(batch.images * count, [&](int64_t first, int64_t last) {
      sigmoid_chunks(batch, to, first, last, parts.get(), gradients.conf);
    });
  }
  if (gradients.conf != nullptr) loc_gradients(batch, to.scales, T(1), gradients.loc);
  parallel_ranges(batch.images, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const double* own = parts.get() + b * count;
      sums[b].conf = sum_of_image(count, [&](int64_t i) { return own[i]; });
    }
  });
  sum_focal(batch.rule.loss, sums, scales, to);
}

}  // namespace ssd_cuda
