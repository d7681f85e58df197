// The rows of the logits on the CPU: cross entropies of many rows, and the gradient of one.
//
// A vector holds one class of as many rows: rows are loaded along the classes and transposed in registers, so
// that short rows (C = 21) fill the vectors too and each row adds its classes in order. Every vector width, the
// plain loop and the CUDA kernel give the same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/cpu/exp_simd.h"
#include "common/cpu/half_simd.h"
#include "common/cpu/transpose.h"
#include "common/math/loss_math.h"

namespace ssd_cuda {

// Logits as the caller holds them: strides in elements, over images, priors and classes.
template <typename S>
struct Logits {
  const S* data;
  int64_t image_stride, row_stride, class_stride;
  int64_t num_classes;

  const S* row(int64_t image, int64_t p) const {
    return data + image * image_stride + p * row_stride;
  }
};

// The largest logit of a row and the sum of exp(x - largest), added in the order of the classes.
template <typename T>
struct RowSum {
  T largest, sum;
};
template <typename T, typename S>
RowSum<T> row_sum(const S* row, int64_t stride, int64_t classes) {
  T largest = static_cast<T>(row[0]), sum = 0;
  for (int64_t c = 1; c < classes; ++c) {
    const T x = static_cast<T>(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  for (int64_t c = 0; c < classes; ++c) {
    sum = add_exp_negative(sum, static_cast<T>(row[c * stride]) - largest);
  }
  return {largest, sum};
}

// Classes [first, first + K) of N rows, as columns.
template <int N, int K, typename S>
SSD_SIMD_BODY inline void load_square(const Logits<S>& logits, int64_t image, int64_t p,
                                      int64_t last, int64_t first, Pack<float, N>* columns) {
  const auto row = [&](int r)
                       SSD_SIMD_BODY { return logits.row(image, std::min(p + r, last)) + first; };
  Pack<float, N> square[K];
  SSD_UNROLL
  for (int r = 0; r < K; ++r) square[r] = load_pieces<N, K>(row, r);
  transpose_packs<N, K>(square);
  SSD_UNROLL
  for (int j = 0; j < K; ++j) columns[first + j] = square[j];
}

// The logits of rows p .. p + N - 1 as columns[c] = class c of each of them. Rows past `last` repeat it.
template <int N, typename S>
SSD_SIMD_BODY inline void load_columns(const Logits<S>& logits, int64_t image, int64_t p,
                                       int64_t last, Pack<float, N>* columns) {
  constexpr int kHalf = N / 2;
  const int64_t classes = logits.num_classes;
  if (logits.class_stride == 1 && classes >= kHalf) {
    // A square that would pass the end overlaps the one before; half of one where that is enough.
    int64_t c = 0;
    for (; classes - c > kHalf && classes >= N; c += N) {
      load_square<N, N>(logits, image, p, last, std::min(c, classes - N), columns);
    }
    for (; c < classes; c += kHalf) {
      load_square<N, kHalf>(logits, image, p, last, std::min(c, classes - kHalf), columns);
    }
  } else if (logits.row_stride == 1 && p + N - 1 <= last) {
    const S* row = logits.row(image, p);
    for (int64_t c = 0; c < classes; ++c) {
      columns[c] = load_floats<Pack<float, N>>(row + c * logits.class_stride);
    }
  } else {
    for (int r = 0; r < N; ++r) {
      const S* row = logits.row(image, std::min(p + r, last));
      for (int64_t c = 0; c < classes; ++c) {
        columns[c][r] = static_cast<float>(row[c * logits.class_stride]);
      }
    }
  }
}

// What a tile of rows has: its largest logits, the logs of sum exp(x - largest), the cross entropies at one class; where
// labels are smooth, the sums of w_c (x_c - largest) of ClassTerms.
constexpr int64_t kTileRows = 256, kMostLanes = 16;
template <typename T>
struct RowTile {
  static constexpr int64_t kRoom = kTileRows + 16;  // whole vectors are stored
  T largest[kRoom], log_sum[kRoom], losses[kRoom], shifted[kRoom];
};

constexpr int64_t kAheadBytes = 4096;  // how far rows are fetched ahead, at least

// Nobody asks for more than the tile.
struct NoMore {
  static constexpr bool keeps_exps() { return false; }
  template <typename T>
  void row(int64_t, T) const {}
  template <int N>
  SSD_SIMD_BODY void packs(int64_t, Pack<float, N>, const Pack<float, N>*) const {}
};

template <int N, bool kSmooth, typename S, typename More>
SSD_SIMD_BODY inline void cross_entropy_packs(const Logits<S>& logits, int64_t image, int64_t begin,
                                              int64_t count, int64_t label,
                                              const ClassTerms<float>& terms, float* scratch,
                                              RowTile<float>* tile, const More& more) {
  using V = Pack<float, N>;
  V* columns = reinterpret_cast<V*>(scratch);
  const int64_t classes = logits.num_classes;
  // The rows that come next are fetched while the exps keep the core busy: a line for as many classes as N rows have of
  // it. The hardware does not follow N short streams.
  constexpr int64_t kClassBytes = N * sizeof(S),
                    kClassesALine = kClassBytes < 64 ? 64 / kClassBytes : 1;
  const int64_t block = N * logits.row_stride * static_cast<int64_t>(sizeof(S));
  const bool streams = logits.class_stride == 1 && block > 0;  // not: one row for all priors
  const int64_t distance = streams ? (kAheadBytes + block - 1) / block * block : 0;
  for (int64_t i = 0; i < count; i += N) {
    load_columns<N>(logits, image, begin + i, begin + count - 1, columns);
    V largest = columns[0], second = columns[0], sum{},
      shifted{};  // two chains: a maximum waits four cycles
    for (int64_t c = 1; c + 1 < classes; c += 2) {
      largest = columns[c] > largest ? columns[c] : largest;
      second = columns[c + 1] > second ? columns[c + 1] : second;
    }
    second = columns[classes - 1] > second ? columns[classes - 1] : second;
    largest = second > largest ? second : largest;
    const char* ahead = reinterpret_cast<const char*>(logits.row(image, begin + i)) + distance;
    const V at_label = columns[label];
    for (int64_t c = 0; c < classes; ++c) {
      if (streams && c % kClassesALine == 0) __builtin_prefetch(ahead + c * kClassBytes);
      const V x = columns[c] - largest;
      sum = add_exp_negative_pack(sum, x);
      if (more.keeps_exps()) columns[c] = exp_negative_pack(x);
      if constexpr (kSmooth) shifted = shifted + x * (V{} + terms.weight(c));
    }
    if constexpr (kSmooth) store_pack(tile->shifted + i, shifted);
    const V log_sum = log_normal_pack(sum);
    store_pack(tile->largest + i, largest);
    store_pack(tile->log_sum + i, log_sum);
    store_pack(tile->losses + i, log_sum - (at_label - largest));
    more.template packs<N>(i, sum, columns);
  }
}

// Fills the tile for rows [begin, begin + count) of an image, count <= kTileRows. more.packs(i, sum, columns): the sums of
// exp(x - largest) of rows i and after, once the tile has these rows; columns: these exps where more.keeps_exps().
// more.row(i, sum): of one row, where T is double.
template <typename S, typename T, typename More = NoMore>
void cross_entropy_rows(const Logits<S>& logits, int64_t image, int64_t begin, int64_t count,
                        int64_t label, const ClassTerms<T>& terms, std::vector<T>* scratch,
                        RowTile<T>* tile, const More& more = {}) {
  if constexpr (std::is_same_v<T, float>) {
    scratch->resize((logits.num_classes + 1) * kMostLanes);
    float* aligned = scratch->data();
    while (reinterpret_cast<std::uintptr_t>(aligned) % 64 != 0) ++aligned;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      constexpr int kLanes = decltype(bytes)::value / 4;
      if (terms.smooth()) {
        cross_entropy_packs<kLanes, true>(logits, image, begin, count, label, terms, aligned, tile,
                                          more);
      } else {
        cross_entropy_packs<kLanes, false>(logits, image, begin, count, label, terms, aligned, tile,
                                           more);
      }
    });
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const S* row = logits.row(image, begin + i);
      const auto [largest, sum] = row_sum<T>(row, logits.class_stride, logits.num_classes);
      tile->largest[i] = largest;
      tile->log_sum[i] = log_normal(sum);
      more.row(i, sum);
      tile->losses[i] = cross_entropy(tile->log_sum[i], row[label * logits.class_stride], largest);
      T shifted = 0;
      for (int64_t c = 0; terms.smooth() && c < logits.num_classes; ++c) {
        shifted += terms.weight(c) * (static_cast<T>(row[c * logits.class_stride]) - largest);
      }
      tile->shifted[i] = shifted;
    }
  }
}

// The cross entropy of row `begin + i` of a filled tile at any class; a negative label gives NaN.
template <typename S, typename T>
T cross_entropy_at(const Logits<S>& logits, int64_t image, int64_t begin, int64_t i, int64_t label,
                   const RowTile<T>& tile) {
  const S* row = logits.row(image, begin + i);
  const T x = label < 0 ? T(NAN) : static_cast<T>(row[label * logits.class_stride]);
  return cross_entropy(tile.log_sum[i], x, tile.largest[i]);
}

// x[c] = softmax(c) in place: exp(x - largest), their sum in the order of the classes, the quotients. `bad` makes them
// NaN. x has room for whole vectors.
template <typename T>
void softmax_row(T* x, int64_t classes, bool bad) {
  T largest = x[0], sum = 0;
  for (int64_t c = 1; c < classes; ++c) largest = x[c] > largest ? x[c] : largest;
  for (int64_t c = 0; c < classes; ++c) {
    x[c] = exp_negative(x[c] - largest);
    sum += x[c];
  }
  if (bad) sum = T(NAN);
  for (int64_t c = 0; c < classes; ++c) x[c] /= sum;
}
inline void softmax_row(float* x, int64_t classes, bool bad) {
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    constexpr int kLanes = decltype(bytes)::value / 4;
    using V = Pack<float, kLanes>;
    for (int64_t c = classes; c % kLanes != 0; ++c) x[c] = x[0];
    V tops = V{} + x[0];
    for (int64_t c = 0; c < classes; c += kLanes) tops = max_of(load_pack<V>(x + c), tops);
    float largest = tops[0], sum = 0;
    for (int lane = 1; lane < kLanes; ++lane) largest = max_of(tops[lane], largest);
    for (int64_t c = 0; c < classes; c += kLanes) {
      store_pack(x + c, exp_negative_pack(load_pack<V>(x + c) - largest));
    }
    for (int64_t c = 0; c < classes; ++c) sum += x[c];
    if (bad) sum = NAN;
    for (int64_t c = 0; c < classes; c += kLanes) store_pack(x + c, load_pack<V>(x + c) / sum);
  });
}

// grad[c * grad_stride] = scale * (softmax(c) - [c == label]), or that of the terms, computed in T and rounded once.
template <typename S, typename T>
void cross_entropy_row_backward(const S* row, int64_t stride, int64_t classes, int64_t label,
                                const ClassTerms<T>& terms, T total, T scale,
                                std::vector<T>* scratch, S* grad, int64_t grad_stride) {
  scratch->resize(classes + 16);
  T* x = scratch->data();
  for (int64_t c = 0; c < classes; ++c) x[c] = static_cast<T>(row[c * stride]);
  softmax_row(x, classes, label < 0);
  if (terms.any()) {
    for (int64_t c = 0; c < classes; ++c) {
      grad[c * grad_stride] = static_cast<S>(scale * terms.gradient(x[c], c, label, total));
    }
    return;
  }
  for (int64_t c = 0; c < classes; ++c) {
    grad[c * grad_stride] = static_cast<S>(scale * cross_entropy_gradient(x[c], c == label));
  }
}

}  // namespace ssd_cuda
