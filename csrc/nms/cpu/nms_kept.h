// Kept boxes in vectors: the test of one box against many. nms_sweep.h says how they are used.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/cpu/lanes.h"
#include "common/math/nms_math.h"

namespace ssd_cuda {
namespace nms {

constexpr int64_t kPad = 16;  // lanes that a vector may read past the end of a list

// The widths and classes of T's vector lanes.
template <typename T>
using LaneInt = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Kept boxes as a structure of arrays. A free slot has area NaN, which never passes the rule.
template <typename T>
struct KeptList {
  std::unique_ptr<T[]> numbers;
  std::unique_ptr<LaneInt<T>[]> classes;
  T *x1, *y1, *x2, *y2, *area;
  int64_t size = 0;

  void reserve(int64_t n) {
    n += kPad;
    numbers.reset(new T[5 * n]);
    classes.reset(new LaneInt<T>[n]);
    x1 = numbers.get(), y1 = x1 + n, x2 = y1 + n, y2 = x2 + n, area = y2 + n;
    for (int64_t i = 0; i < n; ++i) area[i] = std::numeric_limits<T>::quiet_NaN();
  }
  void set(int64_t slot, Vec4<T> box, T box_area, LaneInt<T> box_class) {
    x1[slot] = box.x, y1[slot] = box.y, x2[slot] = box.z, y2[slot] = box.w;
    area[slot] = box_area, classes[slot] = box_class;
  }
  void push(Vec4<T> box, T box_area, LaneInt<T> box_class) {
    set(size++, box, box_area, box_class);
  }
};

// One box under test, with its derived numbers.
template <typename T>
struct Candidate {
  Vec4<T> box;
  T area;
  LaneInt<T> cls;
};

// Lanes of list[slot, slot + lanes) that remove q: -1, others 0.
template <typename V, typename T>
SSD_SIMD_BODY inline auto removed_by(const KeptList<T>& list, int64_t slot, const Candidate<T>& q,
                                     const SuppressRule<T>& rule) {
  using M = decltype(V{} > V{});
  const Vec4<V> kept{load_pack<V>(list.x1 + slot), load_pack<V>(list.y1 + slot),
                     load_pack<V>(list.x2 + slot), load_pack<V>(list.y2 + slot)};
  const M same_class = load_pack<M>(list.classes.get() + slot) == q.cls;
  return rule.lanes(kept, load_pack<V>(list.area + slot), q.box, q.area) & same_class;
}

template <typename V, typename T>
SSD_SIMD_BODY inline bool any_removes(const KeptList<T>& list, const Candidate<T>& q,
                                      const SuppressRule<T>& rule) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(T), kStep = 4 * kLanes;
  for (int64_t slot = 0; slot < list.size; slot += kStep) {
    auto mask = removed_by<V>(list, slot, q, rule);
    for (int64_t s = slot + kLanes; s < slot + kStep && s < list.size; s += kLanes) {
      mask |= removed_by<V>(list, s, q, rule);
    }
    if (any_lane(mask)) return true;
  }
  return false;
}

}  // namespace nms
}  // namespace ssd_cuda
