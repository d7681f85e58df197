// Encode and decode on the CPU. Where the arithmetic is float, a vector holds one coordinate of as many boxes.
#pragma once

#include <algorithm>

#include "boxes/coder.h"
#include "common/cpu/exp_simd.h"
#include "common/cpu/parallel.h"
#include "common/cpu/transpose.h"

namespace ssd_cuda {

constexpr int64_t kGrainRows = 4096;

// Coordinates of boxes[i .. i + N), by coordinate, and back.
template <int N>
SSD_SIMD_BODY inline Vec4<Pack<float, N>> load_boxes(const Vec4<float>* boxes, int64_t i) {
  Pack<float, N> v[4];
  const auto row = [&](int r) SSD_SIMD_BODY { return &boxes[i + r].x; };
  SSD_UNROLL
  for (int r = 0; r < 4; ++r) v[r] = load_pieces<N, 4>(row, r);
  transpose_packs<N, 4>(v);
  return {v[0], v[1], v[2], v[3]};
}
template <int N>
SSD_SIMD_BODY inline void store_boxes(Vec4<float>* boxes, int64_t i, Vec4<Pack<float, N>> columns) {
  Pack<float, N> v[4] = {columns.x, columns.y, columns.z, columns.w};
  transpose_packs<N, 4>(v);
  SSD_UNROLL
  for (int r = 0; r < 4; ++r) {
    Vec4<float> rows[N / 4];
    store_pack(rows, v[r]);
    SSD_UNROLL
    for (int piece = 0; piece < N / 4; ++piece) boxes[i + r + 4 * piece] = rows[piece];
  }
}

// Rows [row, row + count) with priors from p on, for code_rows.
template <int kBytes, typename T, typename Code>
SSD_SIMD_BODY inline void code_neighbours(const Coder<T>& coder, int64_t row, int64_t p,
                                          int64_t count, const Code& code, Vec4<T>* to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, float>) {
    constexpr int N = kBytes / sizeof(float);
    using V = Pack<float, N>;
    const V zero{};
    const Vec4<T> v = coder.variance;
    const Vec4<V> same{zero + v.x, zero + v.y, zero + v.z, zero + v.w};
    for (; i + N <= count; i += N) {
      const Vec4<V> prior = prior_center(load_boxes<N>(coder.priors, p + i), coder.format);
      const Vec4<V> variance = coder.variances ? load_boxes<N>(coder.variances, p + i) : same;
      store_boxes<N>(to, row + i, code.template many<N>(row + i, prior, variance));
    }
  }
  for (; i < count; ++i) {
    to[row + i] = code.one(row + i, coder.center(p + i), coder.variance_of(p + i));
  }
}

// to[row] = code.one(row, center, variance), or of many rows at once by code.many, for every row.
template <typename T, typename Code>
void code_rows(const Coder<T>& coder, int64_t rows, const Code& code, Vec4<T>* to) {
  parallel_grains(rows, kGrainRows, [&](int64_t begin, int64_t end) {
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      for (int64_t row = begin; row < end;) {  // a run of rows with neighbouring priors
        const int64_t p = row % coder.prior_rows, count = std::min(end - row, coder.prior_rows - p);
        code_neighbours<decltype(bytes)::value>(coder, row, p, count, code, to);
        row += count;
      }
    });
  });
}

template <typename T>
struct Encode {
  const Vec4<T>* boxes;

  SSD_SIMD_BODY Vec4<T> one(int64_t i, Vec4<T> center, Vec4<T> variance) const {
    return encode_box(boxes[i], center, variance);
  }
  template <int N, typename V>
  SSD_SIMD_BODY Vec4<V> many(int64_t i, Vec4<V> center, Vec4<V> variance) const {
    return encode_box<PackOps>(load_boxes<N>(boxes, i), center, variance);
  }
};

template <typename T>
struct Decode {
  const Vec4<T>* codes;
  LogClamp<T> clamp;

  SSD_SIMD_BODY Vec4<T> one(int64_t i, Vec4<T> center, Vec4<T> variance) const {
    return decode_box(codes[i], center, variance, clamp);
  }
  template <int N, typename V>
  SSD_SIMD_BODY Vec4<V> many(int64_t i, Vec4<V> center, Vec4<V> variance) const {
    const LogClamp<V> wide{V{} + clamp.max_log, clamp.symmetric};
    return decode_box<PackOps>(load_boxes<N>(codes, i), center, variance, wide);
  }
};

template <typename T>
void encode_boxes(const Coder<T>& coder, const Vec4<T>* boxes, int64_t rows, Vec4<T>* codes) {
  code_rows(coder, rows, Encode<T>{boxes}, codes);
}
template <typename T>
void decode_boxes(const Coder<T>& coder, const Vec4<T>* codes, int64_t rows, Vec4<T>* boxes) {
  code_rows(coder, rows, Decode<T>{codes, coder.clamp}, boxes);
}

// fn(row, p) for every row of a gradient.
template <typename T, typename Fn>
void for_each_row(const Coder<T>& coder, int64_t rows, const Fn& fn) {
  parallel_grains(rows, kGrainRows, [&](int64_t begin, int64_t end) {
    with_simd([&](auto) SSD_SIMD_BODY {  // for the fused operations of exp
      for (int64_t row = begin, p = begin % coder.prior_rows; row < end; ++row) {
        fn(row, p);
        if (++p == coder.prior_rows) p = 0;
      }
    });
  });
}
template <typename T>
void encode_boxes_backward(const Coder<T>& coder, const Vec4<T>* grad, const Vec4<T>* boxes,
                           int64_t rows, Vec4<T>* result) {
  for_each_row(coder, rows, [&](int64_t i, int64_t p) SSD_SIMD_BODY {
    result[i] = encode_box_backward(grad[i], boxes[i], coder.center(p), coder.variance_of(p));
  });
}
template <typename T>
void decode_boxes_backward(const Coder<T>& coder, const Vec4<T>* grad, const Vec4<T>* codes,
                           int64_t rows, Vec4<T>* result) {
  for_each_row(coder, rows, [&](int64_t i, int64_t p) SSD_SIMD_BODY {
    result[i] =
        decode_box_backward(grad[i], codes[i], coder.center(p), coder.variance_of(p), coder.clamp);
  });
}

}  // namespace ssd_cuda
