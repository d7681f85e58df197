// A batch of the focal loss on the CPU, and what its forward and its backward share.
#pragma once

#include <algorithm>

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

// The gradients of numbers [begin, end) of an image that are no plain negatives, sigmoid form. x, to: of the first one on.
template <typename Ops, typename S, typename T>
SSD_SIMD_BODY inline void special_slopes(const FocalBatch<S>& batch, const int32_t* columns,
                                         const T* x, int64_t begin, int64_t end, T factor, T* to) {
  const FocalTerm<T> term = batch.rule.term;
  batch.conf.each_special(columns, begin, end, [&](int64_t j, int32_t column) SSD_SIMD_BODY {
    if (column < 0) {
      to[j] = column == kIgnoredColumn ? T(0) : T(NAN);
    } else {
      to[j] = -SigmoidFocal<Ops, T, T>(term, x[j]).slope(term, term.alpha_positive) * factor;
    }
  });
}

// d_loc of the localized rows; the others are zeros before.
template <typename S>
void loc_gradients(const FocalBatch<S>& batch, const acc_t<S>* scales, acc_t<S> grad_loc,
                   const Logits<S>& d_loc) {
  using T = acc_t<S>;
  const T beta = static_cast<T>(batch.rule.loss.beta);
  parallel_grains(batch.images * batch.width, kTileRows, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      if (batch.targets.codes != nullptr && batch.targets.codes[i] < 0) continue;  // nearly all
      const int64_t image = i / batch.width, p = i % batch.width;
      const T scale = scales[image];
      if (scale == T(0) || !is_localized(batch.targets.row(image, p, batch.rule.label).kind)) {
        continue;
      }
      const T factor = static_cast<T>(grad_loc * batch.rule.loss.loc_factor * scale);
      const Vec4<T> d = batch.difference(image, p);
      S* to = const_cast<S*>(d_loc.row(image, p));
      const T differences[4] = {d.x, d.y, d.z, d.w};
      for (int c = 0; c < 4; ++c) {
        to[c * d_loc.class_stride] =
            static_cast<S>(factor * smooth_l1_gradient(differences[c], beta));
      }
    }
  });
}

}  // namespace ssd_cuda
