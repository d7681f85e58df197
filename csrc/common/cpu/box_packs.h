// Boxes as vectors, one of each coordinate.
#pragma once

#include "common/math/box_math.h"
#include "transpose.h"

namespace ssd_cuda {

// Coordinates of boxes[0, N), by coordinate.
template <int N, typename T>
SSD_SIMD_BODY inline Vec4<Pack<T, N>> load_boxes(const Vec4<T>* boxes) {
  using V = Pack<T, N>;
  if constexpr (std::is_same_v<T, float>) {
    V v[4];
    const auto row = [&](int r) SSD_SIMD_BODY { return &boxes[r].x; };
    SSD_UNROLL
    for (int r = 0; r < 4; ++r) v[r] = load_pieces<N, 4>(row, r);
    transpose_packs<N, 4>(v);
    return {v[0], v[1], v[2], v[3]};
  } else {
    Vec4<V> columns;
    for (int lane = 0; lane < N; ++lane) {
      columns.x[lane] = boxes[lane].x, columns.y[lane] = boxes[lane].y;
      columns.z[lane] = boxes[lane].z, columns.w[lane] = boxes[lane].w;
    }
    return columns;
  }
}

// Of boxes[0, count) for 0 < count < N; the lanes past them repeat the first.
template <int N, typename T>
SSD_SIMD_BODY inline Vec4<Pack<T, N>> load_boxes(const Vec4<T>* boxes, int64_t count) {
  Vec4<T> padded[N];
  for (int lane = 0; lane < N; ++lane) padded[lane] = boxes[lane < count ? lane : 0];
  return load_boxes<N>(padded);
}

// boxes[0, N) from their coordinates.
template <int N>
SSD_SIMD_BODY inline void store_boxes(Vec4<float>* boxes, Vec4<Pack<float, N>> columns) {
  Pack<float, N> v[4] = {columns.x, columns.y, columns.z, columns.w};
  transpose_packs<N, 4>(v);
  SSD_UNROLL
  for (int r = 0; r < 4; ++r) {
    Vec4<float> rows[N / 4];
    store_pack(rows, v[r]);
    SSD_UNROLL
    for (int piece = 0; piece < N / 4; ++piece) boxes[r + 4 * piece] = rows[piece];
  }
}

// The same box in every lane.
template <typename V, typename T>
SSD_SIMD_BODY inline Vec4<V> every_lane(Vec4<T> box) {
  const V zero{};
  return {zero + box.x, zero + box.y, zero + box.z, zero + box.w};
}

}  // namespace ssd_cuda
