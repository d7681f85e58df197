// Pairwise IoU on the CPU, a vector of columns at a time.
#pragma once

#include <vector>

#include "common/cpu/parallel.h"
#include "common/cpu/simd.h"
#include "common/math/box_math.h"

namespace ssd_cuda {

constexpr int64_t kPackLanes = 16;  // of the widest vector, in floats
constexpr int64_t kGrainPairs = 32768;

// Corners and areas of boxes2 by coordinate, padded to whole vectors.
template <typename T>
struct Columns {
  int64_t padded;
  std::vector<T> x1, y1, x2, y2, area;

  explicit Columns(const Vec4<T>* boxes, int64_t count)
      : padded((count + kPackLanes - 1) / kPackLanes * kPackLanes),
        x1(padded),
        y1(padded),
        x2(padded),
        y2(padded),
        area(padded) {
    for (int64_t i = 0; i < count; ++i) {
      x1[i] = boxes[i].x, y1[i] = boxes[i].y, x2[i] = boxes[i].z, y2[i] = boxes[i].w;
      area[i] = box_area(boxes[i]);
    }
  }
};

// One row of the IoU matrix: a against every column; row: [count].
template <int kBytes, typename T>
SSD_SIMD_BODY inline void iou_row(Vec4<T> a, const Columns<T>& b, T eps, int64_t count, T* row) {
  constexpr int kLanes = kBytes / sizeof(T);
  using V = Pack<T, kLanes>;
  const V area = V{} + box_area(a);
  const Vec4<V> wide{V{} + a.x, V{} + a.y, V{} + a.z, V{} + a.w};
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vec4<V> other{load_pack<V>(&b.x1[j]), load_pack<V>(&b.y1[j]), load_pack<V>(&b.x2[j]),
                        load_pack<V>(&b.y2[j])};
    const V value = iou(wide, area, other, load_pack<V>(&b.area[j]), V{} + eps);
    if (j + kLanes <= count) {
      store_pack(row + j, value);
    } else {
      for (int lane = 0; j + lane < count; ++lane) row[j + lane] = value[lane];
    }
  }
}

// a: [n], b: [m] -> result: [n, m].
template <typename T>
void iou_matrix(const Vec4<T>* a, int64_t n, const Vec4<T>* b, int64_t m, T eps, T* result) {
  const Columns<T> columns(b, m);
  const int64_t grain = m > 0 ? 1 + kGrainPairs / m : n;
  parallel_grains(n, grain, [&](int64_t begin, int64_t end) {
    with_simd([&](auto bytes) SSD_SIMD_BODY {
      for (int64_t i = begin; i < end; ++i) {
        iou_row<decltype(bytes)::value>(a[i], columns, eps, m, result + i * m);
      }
    });
  });
}

}  // namespace ssd_cuda
