// The backward of the focal loss on the CPU: chunks of the logits, number by number.
#pragma once

#include "focal_batch.h"

namespace ssd_cuda {

// factor * d(loss) / d(logit) of numbers [begin, end) of an image, sigmoid form. to: [kChunkRoom].
template <typename V, typename Ops, typename S, typename T>
SSD_SIMD_BODY inline void sigmoid_gradient(const FocalBatch<S>& batch, const int32_t* columns,
                                           const T* x, int64_t begin, int64_t end, T factor,
                                           T* to) {
  const FocalTerm<T> term = batch.rule.term;
  for (int64_t j = 0; j < end - begin; j += kLanesOf<V>) {
    const SigmoidFocal<PackOps, T, V> focal(term, -load_pack<V>(x + j));
    store_pack(to + j, focal.slope(term, term.alpha_negative) * (V{} + factor));
  }
  special_slopes<Ops>(batch, columns, x, begin, end, factor, to);
}

// The numbers of one row, whose softmax is exp(x - largest) inverse; label: its true column's place, or beyond. Whole
// vectors are written: what is beyond is the next row's.
template <typename V, typename Ops, typename T>
SSD_SIMD_BODY inline void softmax_row_gradient(const T* x, int64_t count, T largest, T inverse,
                                               T factor, int64_t label, T* to) {
  for (int64_t j = 0; j < count; j += kLanesOf<V>) {
    const V share = exp_negative_pack(load_pack<V>(x + j) - largest) * (V{} + inverse);
    store_pack(to + j, share * (V{} + factor));
  }
  if (label >= 0 && label < count) {
    const T share = exp_negative_by<Ops>(x[label] - largest) * inverse;
    to[label] = cross_entropy_gradient(share, true) * factor;
  }
  if (factor == T(0)) std::fill(to, to + count, T(0));  // of a row that does not count
}

template <typename V, typename Ops, typename S, typename T>
SSD_SIMD_BODY inline void softmax_gradient(const FocalBatch<S>& batch, const FocalSaved<T>& from,
                                           int64_t image, const T* x, int64_t begin, int64_t end,
                                           T factor, T* to) {
  const int64_t rows = batch.images * batch.width, first = image * batch.width;
  batch.conf.each_run(begin, end, [&](const ChunkRun& run) SSD_SIMD_BODY {
    const int64_t j = run.first - begin, count = run.last - run.first, place = first + run.row;
    if (!batch.conf.rows_inner) {
      softmax_row_gradient<V, Ops>(x + j, count, from.stats[place], from.stats[rows + place],
                                   from.stats[2 * rows + place] * factor,
                                   from.columns[place] - run.column, to + j);
      return;
    }
    for (int64_t k = 0; k < count; ++k) {  // a class of neighbouring rows
      const T own = from.stats[2 * rows + place + k] * factor;
      const T share =
          exp_negative_by<Ops>(x[j + k] - from.stats[place + k]) * from.stats[rows + place + k];
      const bool label = from.columns[place + k] == run.column;
      to[j + k] = own == T(0) ? T(0) : cross_entropy_gradient(share, label) * own;
    }
  });
}

// d_conf of chunks [first, last), counted over the batch.
template <typename S>
void chunk_gradients(const FocalBatch<S>& batch, const FocalSaved<acc_t<S>>& from, int64_t first,
                     int64_t last, S* d_conf) {
  using T = acc_t<S>;
  const int64_t chunks = batch.conf.chunks(), size = batch.conf.size();
  T buffer[kChunkRoom], values[kChunkRoom];
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
    using Ops = NumberOps<decltype(bytes)::value>;
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / chunks, begin = i % chunks * kFocalChunk;
      const int64_t end = std::min(begin + kFocalChunk, size);
      S* to = d_conf + image * size + begin;
      const T scale = from.scales[image];
      if (scale == T(0)) {
        for (int64_t j = 0; j < end - begin; ++j) to[j] = static_cast<S>(T(0));
        continue;
      }
      const T factor = *from.grad_conf * scale;
      const T* x = batch.conf.template load<V>(image, begin, end, buffer);
      if (batch.rule.softmax) {
        softmax_gradient<V, Ops>(batch, from, image, x, begin, end, factor, values);
      } else {
        sigmoid_gradient<V, Ops>(batch, from.columns + image * batch.width, x, begin, end, factor,
                                 values);
      }
      for (int64_t j = 0; j < end - begin; ++j) to[j] = static_cast<S>(values[j]);
    }
  });
}

template <typename S>
void run_focal_backward(const FocalBatch<S>& batch, const FocalSaved<acc_t<S>>& from,
                        const Logits<S>& d_loc, S* d_conf) {
  parallel_ranges(batch.images * batch.conf.chunks(), [&](int64_t first, int64_t last) {
    chunk_gradients(batch, from, first, last, d_conf);
  });
  loc_gradients(batch, from.scales, *from.grad_loc, d_loc);
}

}  // namespace ssd_cuda
