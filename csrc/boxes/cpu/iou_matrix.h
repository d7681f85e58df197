// Pairwise IoU on the CPU, a vector of columns at a time.
#pragma once

#include <algorithm>

#include "common/cpu/box_packs.h"
#include "common/cpu/parallel.h"

namespace ssd_cuda {

constexpr int64_t kIouRows = 32;       // of a tile: they share the corners of its columns
constexpr int64_t kIouColumns = 256;   // whole vectors of any width
constexpr int64_t kTaskPairs = 32768;  // about so many a task

// Corners and areas of a tile's columns by coordinate, small enough to stay in the first cache.
template <typename T>
struct IouColumns {
  alignas(64) T x1[kIouColumns];
  alignas(64) T y1[kIouColumns];
  alignas(64) T x2[kIouColumns];
  alignas(64) T y2[kIouColumns];
  alignas(64) T area[kIouColumns];

  template <int N>
  SSD_SIMD_BODY void fill(const Vec4<T>* boxes, int64_t count) {
    for (int64_t j = 0; j < count; j += N) {
      const int64_t left = count - j;
      const auto box = left < N ? load_boxes<N>(boxes + j, left) : load_boxes<N>(boxes + j);
      store_pack(x1 + j, box.x), store_pack(y1 + j, box.y);
      store_pack(x2 + j, box.z), store_pack(y2 + j, box.w);
      store_pack(area + j, box_area(box));
    }
  }

  // result[0, count): a against each.
  template <int N>
  SSD_SIMD_BODY void row(Vec4<T> a, int64_t count, T eps, T* result) const {
    using V = Pack<T, N>;
    const V a_area = V{} + box_area(a);
    const Vec4<V> wide = every_lane<V>(a);
    for (int64_t j = 0; j < count; j += N) {
      const Vec4<V> other{load_pack<V>(x1 + j), load_pack<V>(y1 + j), load_pack<V>(x2 + j),
                          load_pack<V>(y2 + j)};
      const V value = iou(wide, a_area, other, load_pack<V>(area + j), V{} + eps);
      if (j + N <= count) {
        store_pack(result + j, value);
      } else {
        for (int lane = 0; j + lane < count; ++lane) result[j + lane] = value[lane];
      }
    }
  }
};

// Rows [i, i_end) by columns [j, j_end) of the matrix; stride: all columns of a row.
template <int kBytes, typename T>
SSD_SIMD_BODY inline void iou_part(const Vec4<T>* a, int64_t i, int64_t i_end, const Vec4<T>* b,
                                   int64_t j, int64_t j_end, T eps, int64_t stride, T* result) {
  constexpr int N = kBytes / sizeof(T);
  IouColumns<T> columns;
  for (; j < j_end; j += kIouColumns) {
    const int64_t count = std::min(kIouColumns, j_end - j);
    columns.template fill<N>(b + j, count);
    for (int64_t row = i; row < i_end; ++row) {
      columns.template row<N>(a[row], count, eps, result + row * stride + j);
    }
  }
}

// a: [n], b: [m] -> result: [n, m].
template <typename T>
void iou_matrix(const Vec4<T>* a, int64_t n, const Vec4<T>* b, int64_t m, T eps, T* result) {
  if (n == 0 || m == 0) return;
  // The columns are cut as well, into pieces of about the same width: a few rows are work for several threads too.
  const int64_t strips = (n + kIouRows - 1) / kIouRows;
  const int64_t wanted = (m * std::min(n, kIouRows) + kTaskPairs - 1) / kTaskPairs;
  const int64_t tiles = (m + kIouColumns - 1) / kIouColumns;
  const int64_t width = (tiles + wanted - 1) / wanted * kIouColumns;
  const int64_t pieces = (m + width - 1) / width;
  parallel_grains(strips * pieces, 1, [&](int64_t task, int64_t) {
    const int64_t i = task / pieces * kIouRows, j = task % pieces * width;
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      iou_part<decltype(bytes)::value>(a, i, std::min(i + kIouRows, n), b, j,
                                       std::min(j + width, m), eps, m, result);
    });
  });
}

}  // namespace ssd_cuda
