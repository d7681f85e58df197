// Neighbouring priors as one: what encloses them, and the most that a ground truth can overlap any of them.
// For the CPU and the CUDA kernels, which leave out the groups that cannot matter.
#pragma once

#include "common/math/box_math.h"

namespace ssd_cuda {

// Finite, with an area that is neither 0 nor infinite: its overlap with a prior of area >= 0 is a number.
template <typename T>
SSD_HOST_DEVICE bool is_bounded_truth(Vec4<T> truth, T area) {
  return is_valid_box(truth) && area > T(0) && area - area == T(0);
}

template <typename T>
struct PriorGroup {
  Vec4<T> box;  // around every prior
  T area_min;  // NaN where the area of some prior is negative or NaN: nothing is known of such a group
  T area_max;

  static SSD_HOST_DEVICE PriorGroup none() {
    const T inf = T(INFINITY);
    return {{inf, inf, -inf, -inf}, inf, -inf};
  }
  // The area may be rounded in float, to 0 as well: then nothing is known either.
  static SSD_HOST_DEVICE PriorGroup of(Vec4<T> prior, T area) {
    const T wide = box_area(prior);
    const bool known = area >= T(0) && (area > T(0) || !(wide > T(0)));
    return {prior, known ? area : T(NAN), max_of(area, wide)};
  }
  SSD_HOST_DEVICE void merge(PriorGroup other) {
    // A prior with a NaN leaves NaN in area_min, and nobody asks for the rest.
    box = {min_number(box.x, other.box.x), min_number(box.y, other.box.y),
           max_number(box.z, other.box.z), max_number(box.w, other.box.w)};
    area_min = min_nan(area_min, other.area_min);
    area_max = max_number(area_max, other.area_max);
  }

  // No overlap of a bounded truth with a prior of the group is above this; exactly 0 where all of them are 0,
  // NaN where nothing is known.
  //
  // Rounding keeps order, so no intersection exceeds that with the box, nor any area. With that most,
  // m = min(box & truth, area_max), the overlap of a prior of area a is at most
  //   min(m, a) / (truth_area + a - min(m, a) + eps),
  // which grows up to a = m and falls from there. The union keeps all but 3 of its bits, since it is at
  // least half of the sum it comes from: 2^-16 covers what rounding does to it and to the quotient, kTiny what it
  // does to a quotient below the normal numbers.
  SSD_HOST_DEVICE T overlap_bound(Vec4<T> truth, T truth_area, T eps) const {
    constexpr T kSlack = T(1) + T(1) / T(65536);
    constexpr T kTiny = sizeof(T) == 4 ? T(1.175494351e-38) : T(2.2250738585072014e-308);
    if (!(area_min >= T(0))) return T(NAN);
    const T most = min_of(intersection_area(truth, box), area_max);
    if (!(most > T(0))) return T(0);
    return iou_of(most, truth_area, max_of(area_min, most), eps) * kSlack + kTiny;
  }
};

}  // namespace ssd_cuda
