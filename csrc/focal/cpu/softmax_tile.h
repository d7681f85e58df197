// A tile of rows of the focal loss's softmax form on the CPU: their losses, what the backward needs of them and, where asked
// for, the gradients of their logits, made while the exps are in the nearest cache.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "chunks.h"

namespace ssd_cuda {

template <typename S>
struct SoftmaxTile {
  using T = acc_t<S>;
  const ChunkedLogits<S>& conf;
  FocalTerm<T> term;
  int64_t background;
  int64_t image, begin, count;  // rows [begin, begin + count) of the image, at most kTileRows
  const int32_t* columns;       // [count]
  T scale;                      // of the image, of the gradients
  T* gradients;           // d_conf of the image, zeros, in the order of memory of conf; or null
  std::vector<T>* block;  // scratch, [kMostLanes, classes] where gradients are written
  RowTile<T> rows;        // losses: the focal ones, once finished
  T sums[RowTile<T>::kRoom], factors[RowTile<T>::kRoom];

  // Whether the true column of the N rows from i on is the background, as of nearly all rows.
  template <int N>
  bool all_background(int64_t i) const {
    int32_t expected[N];
    std::fill(expected, expected + N, static_cast<int32_t>(background));
    return i + N <= count && std::memcmp(columns + i, expected, sizeof expected) == 0;
  }

  // From here on V holds rows i and after. Whether they are all_background.
  template <typename V>
  SSD_SIMD_BODY bool finish(int64_t i) {
    constexpr int kLanes = kLanesOf<V>;
    const bool plain = all_background<kLanes>(i);
    V alpha = V{} + term.alpha(false);
    if (!plain) {
      for (int64_t r = i; r < std::min(count, i + kLanes); ++r) {
        const int32_t column = columns[r];
        alpha[r - i] = term.alpha(column != background);
        if (column == background || column == kIgnoredColumn) continue;
        rows.losses[r] = cross_entropy_at(conf.logits, image, begin, r, column, rows);
      }
    }
    const SoftmaxFocal<PackOps, V> focal(term, alpha, load_pack<V>(rows.losses + i));
    store_pack(rows.losses + i, focal.value);
    store_pack(factors + i, focal.factor);
    for (int64_t r = i; !plain && r < std::min(count, i + kLanes); ++r) {
      if (columns[r] == kIgnoredColumn) rows.losses[r] = factors[r] = 0;
    }
    return plain;
  }

  // exps: exp(x - largest) as columns; plain: as finish told. The operations of softmax_row_gradient.
  template <int N>
  SSD_SIMD_BODY void write_gradients(int64_t i, const Pack<float, N>* exps, bool plain) {
    using V = Pack<float, N>;
    const int64_t classes = conf.logits.num_classes, there = std::min<int64_t>(N, count - i);
    const V one = V{} + 1.0f, inverse = one / load_pack<V>(sums + i);
    const V own = load_pack<V>(factors + i) * (V{} + scale);
    const auto at = [&](int64_t c) SSD_SIMD_BODY {
      const V share = exps[c] * inverse;
      return own == V{} ? V{} : (plain && c == background ? share - one : share) * own;
    };
    const auto put_labels = [&](float* to, int64_t row, int64_t column) SSD_SIMD_BODY {
      for (int64_t r = 0; !plain && r < there; ++r) {
        const int32_t label = columns[i + r];
        if (label < 0 || own[r] == 0.0f) continue;
        const float share = exps[label][r] * inverse[r];
        to[r * row + label * column] = cross_entropy_gradient(share, true) * own[r];
      }
    };
    if (conf.rows_inner) {
      float* to = gradients + begin + i;
      for (int64_t c = 0; c < classes; ++c) {
        const V value = at(c);
        std::memcpy(to + c * conf.width, &value, there * sizeof(float));
      }
      put_labels(to, 1, conf.width);
      return;
    }
    // The rows meet in the cache and leave it in the order of memory: N streams of pieces that cross its lines would cost
    // three times as much.
    float* rows_of_block = block->data();
    if (classes >= N) {
      for (int64_t c = 0; c < classes; c += N) {  // the last square lies over the one before
        const int64_t first = std::min(c, classes - N);
        V square[N];
        SSD_UNROLL
        for (int j = 0; j < N; ++j) square[j] = at(first + j);
        transpose_packs<N, N>(square);
        SSD_UNROLL
        for (int r = 0; r < N; ++r) store_pack(rows_of_block + r * classes + first, square[r]);
      }
    } else {
      for (int64_t c = 0; c < classes; ++c) {
        const V value = at(c);
        for (int r = 0; r < N; ++r) rows_of_block[r * classes + c] = value[r];
      }
    }
    put_labels(rows_of_block, classes, 1);
    std::memcpy(gradients + (begin + i) * classes, rows_of_block, there * classes * sizeof(float));
  }

  // What cross_entropy_rows calls with the sums of rows i and after, and with their exps if they are kept.
  struct Rows {
    SoftmaxTile* tile;
    bool keeps;

    bool keeps_exps() const { return keeps; }
    void row(int64_t i, T sum) const { tile->sums[i] = sum; }
    template <int N>
    SSD_SIMD_BODY void packs(int64_t i, Pack<float, N> sum, const Pack<float, N>* exps) const {
      store_pack(tile->sums + i, sum);
      if constexpr (std::is_same_v<S, float>) {
        if (!keeps) return;
        const bool plain = tile->template finish<Pack<float, N>>(i);
        tile->template write_gradients<N>(i, exps, plain);
      }
    }
  };

  void run(std::vector<T>* scratch) {
    const bool keeps = gradients != nullptr && scale != T(0);
    if (keeps) block->resize(kMostLanes * conf.logits.num_classes);
    cross_entropy_rows(conf.logits, image, begin, count, background, ClassTerms<T>{}, scratch,
                       &rows, Rows{this, keeps});
    if (keeps) return;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      using V = Pack<T, decltype(bytes)::value / static_cast<int>(sizeof(T))>;
      for (int64_t i = 0; i < count; i += kLanesOf<V>) finish<V>(i);
    });
  }
};

}  // namespace ssd_cuda
