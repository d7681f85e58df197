// Kept boxes in vectors: the test of one box against many. nms_sweep.h says how they are used.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/cpu/box_packs.h"
#include "common/math/nms_math.h"

namespace ssd_cuda {
namespace nms {

constexpr int64_t kPad = 16;  // lanes that a vector may read past the end of a list

// The widths and classes of T's vector lanes.
template <typename T>
using LaneInt = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// One box under test, with its derived numbers.
template <typename T>
struct Candidate {
  Vec4<T> box;
  T area;
  LaneInt<T> cls;
};

// Kept boxes as a structure of arrays. A free slot has area NaN, which never passes the rule.
template <typename T>
struct KeptList {
  std::unique_ptr<T[]> numbers;
  std::unique_ptr<LaneInt<T>[]> classes;
  std::unique_ptr<uint32_t[]> ranks;  // places in score order
  T *x1, *y1, *x2, *y2, *area;
  int64_t size = 0;

  void reserve(int64_t n) {
    n += kPad;
    numbers.reset(new T[5 * n]);
    classes.reset(new LaneInt<T>[n]);
    ranks.reset(new uint32_t[n]);
    x1 = numbers.get(), y1 = x1 + n, x2 = y1 + n, y2 = x2 + n, area = y2 + n;
    for (int64_t i = 0; i < n; ++i) area[i] = std::numeric_limits<T>::quiet_NaN();
  }
  void set(int64_t slot, const Candidate<T>& c, int64_t rank) {
    x1[slot] = c.box.x, y1[slot] = c.box.y, x2[slot] = c.box.z, y2[slot] = c.box.w;
    area[slot] = c.area, classes[slot] = c.cls, ranks[slot] = static_cast<uint32_t>(rank);
  }
  void push(const Candidate<T>& c, int64_t rank) { set(size++, c, rank); }
};

// What a search wants to know is a Look: at(list, slot, bits) gets boxes that remove the one under test, removed() says that
// one of them surely stays, which is all it wants to know; doubted(): one of them may stay. This one, where all boxes of the
// list are kept: whether there is any.
struct AnyRemover {
  uint32_t found = 0;

  template <typename T>
  SSD_SIMD_BODY void at(const KeptList<T>&, int64_t, uint32_t bits) {
    found |= bits;
  }
  SSD_SIMD_BODY bool removed() const { return found != 0; }
  SSD_SIMD_BODY static constexpr bool doubted() { return false; }
};

// Where it is open of some boxes of the list whether they stay.
struct OpenRemover {
  const uint8_t* open;  // by rank
  bool sure = false, perhaps = false;

  template <typename T>
  SSD_SIMD_BODY void at(const KeptList<T>& list, int64_t slot, uint32_t bits) {
    for (; bits != 0; bits &= bits - 1) {
      (open[list.ranks[slot + __builtin_ctz(bits)]] ? perhaps : sure) = true;
    }
  }
  SSD_SIMD_BODY bool removed() const { return sure; }
  SSD_SIMD_BODY bool doubted() const { return perhaps; }
};

// Shows the look which of list[slot, slot + lanes) remove q. Boxes that do not count get area NaN: g++ makes scalar code of
// masks that are combined.
template <typename V, typename T, typename Look>
SSD_SIMD_BODY inline void look_at(const KeptList<T>& list, int64_t slot, const Candidate<T>& q,
                                  const SuppressRule<T>& rule, Look& look) {
  using M = decltype(V{} > V{});
  const V zero{};
  const Vec4<V> kept{load_pack<V>(list.x1 + slot), load_pack<V>(list.y1 + slot),
                     load_pack<V>(list.x2 + slot), load_pack<V>(list.y2 + slot)};
  const M classes = load_pack<M>(list.classes.get() + slot), own = M{} + q.cls;
  const V area =
      classes == own ? load_pack<V>(list.area + slot) : zero + std::numeric_limits<T>::quiet_NaN();
  const V value = iou(kept, area, every_lane<V>(q.box), zero + q.area, zero + rule.eps,
                      zero + rule.pixel_offset);
  const V threshold = zero + rule.threshold;
  look.at(list, slot,
          rule.inclusive ? compare_bits<true>(value, threshold)
                         : compare_bits<false>(value, threshold));
}

template <typename V, typename T, typename Look>
SSD_SIMD_BODY inline void look_through(const KeptList<T>& list, const Candidate<T>& q,
                                       const SuppressRule<T>& rule, Look& look) {
  constexpr int64_t kLanes = kLanesOf<V>, kStep = 4 * kLanes;
  for (int64_t slot = 0; slot < list.size && !look.removed(); slot += kStep) {
    for (int64_t s = slot; s < slot + kStep && s < list.size; s += kLanes) {
      look_at<V>(list, s, q, rule, look);
    }
  }
}

}  // namespace nms
}  // namespace ssd_cuda
