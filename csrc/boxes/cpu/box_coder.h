// Encode, decode and their backward on the CPU. Where the arithmetic is float, a vector holds one coordinate of as many
// boxes.
#pragma once

#include <algorithm>

#include "boxes/coder.h"
#include "common/cpu/box_packs.h"
#include "common/cpu/exp_simd.h"
#include "common/cpu/parallel.h"

namespace ssd_cuda {

constexpr int64_t kGrainRows = 1024;

// to[i] for i in [0, count) from row[i], grad[i] and the priors from p on.
template <CoderOp kOp, int kBytes, typename T>
SSD_SIMD_BODY inline void code_neighbours(const Coder<T>& coder, int64_t p, const Vec4<T>* row,
                                          const Vec4<T>* grad, int64_t count, Vec4<T>* to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, float>) {
    constexpr int N = kBytes / sizeof(float);
    using V = Pack<float, N>;
    const Vec4<V> same = every_lane<V>(coder.variance);
    const LogClamp<V> clamp{V{} + coder.clamp.max_log, coder.clamp.symmetric};
    for (; i + N <= count; i += N) {
      const Vec4<V> prior = prior_center(load_boxes<N>(coder.priors + p + i), coder.format);
      const Vec4<V> variance = coder.variances ? load_boxes<N>(coder.variances + p + i) : same;
      const Vec4<V> rows = load_boxes<N>(row + i);
      Vec4<V> upstream = rows;
      if constexpr (reads_grad(kOp)) upstream = load_boxes<N>(grad + i);
      store_boxes<N>(to + i, code_box<kOp, PackOps>(rows, upstream, prior, variance, clamp));
    }
  }
  for (; i < count; ++i) {
    Vec4<T> upstream = row[i];
    if constexpr (reads_grad(kOp)) upstream = grad[i];
    to[i] = code_box<kOp, NumberOps<kBytes>>(row[i], upstream, coder.center(p + i),
                                             coder.variance_of(p + i), coder.clamp);
  }
}

// An op of every row: input [rows] boxes or codes, grad [rows] or null where the op reads none.
template <CoderOp kOp, typename T>
void code_boxes(const Coder<T>& coder, const Vec4<T>* input, const Vec4<T>* grad, int64_t rows,
                Vec4<T>* output) {
  parallel_grains(rows, kGrainRows, [&](int64_t begin, int64_t end) {
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      for (int64_t row = begin; row < end;) {  // a run of rows with neighbouring priors
        const int64_t p = row % coder.prior_rows, count = std::min(end - row, coder.prior_rows - p);
        const Vec4<T>* upstream = reads_grad(kOp) ? grad + row : nullptr;
        code_neighbours<kOp, decltype(bytes)::value>(coder, p, input + row, upstream, count,
                                                     output + row);
        row += count;
      }
    });
  });
}

}  // namespace ssd_cuda
