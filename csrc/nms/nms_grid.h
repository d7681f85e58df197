// Why a grid finds every box that can remove another, and its numbers: levels, cells, reach. Both devices file their kept
// boxes by it.
//
// For IoU > t the widths (and heights) of two boxes differ by a factor of at most 1/t, and their centres by at most
// (wa + wb) (1 - t) / (2 (1 + t)). So a box is filed by level (power of two of its longer side), class and the cell of its
// centre, with cells as long as the longest box of the level or a fraction of it, and a search looks only into the few
// cells of the few levels in reach. Kept boxes do not overlap by more than t, so a cell holds few of them whatever the
// number of boxes. Cells are hashed: no limit on coordinates, levels or classes; a collision only adds a box to the test,
// which is exact. The same bound tells of a pair of boxes by their centres alone (span, near).
//
// Roundings. All is reckoned in T; e is its epsilon, and a and b are what a pair of normal boxes measures along an axis. What
// has to be seen is that a centre c, as T has it, and a reach r give cells floor((c - r) / cell) to floor((c + r) / cell) that
// hold the home floor(c' / cell) of every box that may remove the one searched for, wherever both lie.
//   - A cell is a power of two, so that only what is beyond the floating range is rounded in a quotient; sum, quotient and
//     floor are monotone, and c' is a number of T: if c' <= c + r before any rounding, so it is in cells, however coarse T
//     is there. Beyond 2^24 cells from the origin neighbours have one centre, which is all that happens.
//   - So r must be at least the distance of the centres as T has them. Of the true ones it is (a + b) f at most, f the factor
//     above. A centre is rounded by e / 2 of |x1| + |x2| <= 2 |c| + a, and |c'| <= |c| + (a + b) / 2: both together by
//     2 e |c| + e (a + b). Measured sizes are right to 2 e of them, the rounded sums and products in r to 2 e of r.
//   - Hence r = (a + b) (f (1 + 32 e) + 4 e) + 3 e |c| + the least normal number, the last for what halves and products lose
//     of subnormal numbers. The slack of 1e-5 or 1e-3 in least_iou_ is for the IoU, 16 roundings (some 400 with an offset of
//     pixels, where an overlap is a cancelled difference), and covers the sizes and products that levels are chosen by.
//   - A product that overflows is taken to the last cell, as a home there is. None is of 0 and infinity: levels of normal
//     boxes lie far inside the exponents of T.
//
// Boxes for which that argument fails (areas near the ends of the floating range) are odd: tested against every box, and every
// box against them. Boxes without a positive finite area are inert: they remove nothing and are never removed.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/math/nms_math.h"

namespace ssd_cuda {
namespace nms {

enum class Kind : uint8_t { kInert, kNormal, kOdd };

// Which of the arguments above hold for a box.
template <typename T>
SSD_HOST_DEVICE Kind kind_of(Vec4<T> box, T area, const SuppressRule<T>& rule) {
  using Limits = std::numeric_limits<T>;
  const T w = box.z - box.x + rule.pixel_offset, h = box.w - box.y + rule.pixel_offset;
  const T largest = Limits::max();
  if (!(w > 0 && h > 0)) return Kind::kInert;
  if (!(area <= largest) || !(w <= largest) || !(h <= largest)) return Kind::kInert;
  const T small = Limits::min() * T(1 << 20), large = largest / 16;
  bool odd = area < small || area > large || w > large || h > large;
  if (const T pixel = rule.pixel_offset; pixel > 0) {
    // The size of an inverted box is a cancelled difference, and a far x2 swallows x2 + pixel.
    const T far = pixel * T(int64_t{1} << 40);
    odd = odd || w < pixel / 2 || h < pixel / 2 || std::abs(box.x) > far || std::abs(box.y) > far ||
          std::abs(box.z) > far || std::abs(box.w) > far;
  }
  return odd ? Kind::kOdd : Kind::kNormal;
}

// Levels of normal boxes lie in [-kLevels / 2, kLevels / 2).
constexpr int kLevels = 2 * 1100;

// The level of a size: floor(log2(size)); size is a positive normal number.
template <typename T>
SSD_HOST_DEVICE int level_of(T size) {
  using Limits = std::numeric_limits<T>;
  return static_cast<int>(bit_copy<Ordered<T>>(size) >> (Limits::digits - 1)) -
         (Limits::max_exponent - 1);
}
template <typename T>
SSD_HOST_DEVICE T power_of_two(int exponent) {
  using Limits = std::numeric_limits<T>;
  return bit_copy<T>(static_cast<Ordered<T>>(exponent + Limits::max_exponent - 1)
                     << (Limits::digits - 1));
}

// The number of a cell along an axis. 32 bits are enough of floats: a box is as long as its ends are apart, so it is at home
// within 2^28 cells from the origin (an offset of pixels can put it further out, where boxes share the last cell). To 64 bits
// a card converts many times slower.
template <typename T>
using CellNumber = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// floor, held inside what a CellNumber can take; monotone, so a range of centres stays a range of cells.
template <typename T>
SSD_HOST_DEVICE CellNumber<T> floor_to_int(T value) {
#if defined(__CUDA_ARCH__)  // one instruction, which holds itself inside
  if constexpr (sizeof(T) == 4) {
    return __float2int_rd(value);
  } else {
    return __double2ll_rd(value);
  }
#else
  constexpr T kMost = sizeof(T) == 4 ? T(0x1p30) : T(0x1p61);
  value = min_of(max_of(value, -kMost), kMost);
  const auto whole = static_cast<CellNumber<T>>(value);
  return whole - (value < static_cast<T>(whole));
#endif
}

template <typename T>
struct Shape {
  T cx, cy, w, h;
  int level;
};

template <typename T>
struct Cell {
  CellNumber<T> x, y;
};

// The cells of a level where a search looks: [x_first, x_last] by [y_first, y_last].
template <typename T>
struct Cells {
  CellNumber<T> x_first, x_last, y_first, y_last;
  T count;  // about how many, of up to 2^24 never too few; the exact number may overflow

  SSD_HOST_DEVICE int64_t width() const { return int64_t{x_last} - x_first + 1; }
  SSD_HOST_DEVICE int64_t height() const { return int64_t{y_last} - y_first + 1; }
};

// What the grid of a rule is made of; the hashing is modulo a power of two that its user picks.
template <typename T>
class GridRule {
 public:
  // A cell is as long as the longest box of its level over 2^finer.
  explicit GridRule(const SuppressRule<T>& rule, int finer = 0)
      : finer_(finer), pixel_offset_(rule.pixel_offset) {
    // The least true IoU of a pair whose rounded IoU passes. Below, only "they overlap" is used.
    const double t = rule.threshold, e = std::numeric_limits<T>::epsilon();
    double least = 0;
    if (rule.pixel_offset == 0) {
      least = t < 1e-5 ? 0 : t * (1 - 1e-5);
    } else {
      least = t < 1e-2 ? 0 : t * (1 - 1e-3);
    }
    const double factor = (1 - least) / (2 * (1 + least));
    least_iou_ = static_cast<T>(least * (1 - e));
    most_ratio_ = least > 0 ? static_cast<T>((1 + e) / least) : std::numeric_limits<T>::infinity();
    reach_factor_ = static_cast<T>(factor * (1 + 32 * e) + 4 * e);
  }

  SSD_HOST_DEVICE Shape<T> shape(Vec4<T> b) const {
    const T w = b.z - b.x + pixel_offset_, h = b.w - b.y + pixel_offset_;
    return {centre(b.x, b.z + pixel_offset_), centre(b.y, b.w + pixel_offset_), w, h,
            level_of(max_number(w, h))};
  }

  // The levels of boxes that may remove one of this shape: from lowest to highest.
  SSD_HOST_DEVICE int lowest_level(const Shape<T>& s) const {
    const T size = mul_rn(max_number(s.w, s.h), least_iou_);
    return level_of(max_number(size, std::numeric_limits<T>::min()));
  }
  SSD_HOST_DEVICE int highest_level(const Shape<T>& s) const {
    const T size = mul_rn(max_number(s.w, s.h), most_ratio_);
    return level_of(min_number(size, std::numeric_limits<T>::max()));
  }

  // Cells of one row are neighbours: hash = row_hash + ix. A row's hash is a mix of its number, which grows by kRowStep from
  // row to row.
  static constexpr uint64_t kRowStep = 0x9e3779b97f4a7c15ull;
  SSD_HOST_DEVICE static uint64_t row_number(int64_t iy, int level, int64_t cls) {
    return static_cast<uint64_t>(iy) * kRowStep +
           static_cast<uint64_t>(level) * 0xc2b2ae3d27d4eb4full +
           static_cast<uint64_t>(cls) * 0x165667b19e3779f9ull;
  }
  SSD_HOST_DEVICE static uint64_t mix(uint64_t h) {
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ull;
    return h ^ (h >> 32);
  }
  SSD_HOST_DEVICE static uint64_t row_hash(int64_t iy, int level, int64_t cls) {
    return mix(row_number(iy, level, cls));
  }
  SSD_HOST_DEVICE static uint64_t cell_hash(int64_t ix, uint64_t row) {
    return row + static_cast<uint64_t>(ix);
  }
  // Where a box of this shape is filed.
  SSD_HOST_DEVICE Cell<T> home(const Shape<T>& s) const {
    const T inverse = cells_in_one(s.level);
    return {floor_to_int(mul_rn(s.cx, inverse)), floor_to_int(mul_rn(s.cy, inverse))};
  }
  SSD_HOST_DEVICE uint64_t home_hash(const Shape<T>& s, int64_t cls) const {
    const Cell<T> cell = home(s);
    return cell_hash(cell.x, row_hash(cell.y, s.level, cls));
  }

  // The centre of a box, and its part of how far apart the centres of a pair that counts may lie, along x and y: two of these
  // are all that near() needs. Each part is wider than the roundings of its ends, its centre and the sum, and by more than
  // what is lost of subnormal numbers. An odd box is near every other, an inert one near none.
  SSD_HOST_DEVICE Vec4<T> span(Vec4<T> b, Kind kind) const {
    constexpr T kEpsilon = std::numeric_limits<T>::epsilon(),
                kAll = std::numeric_limits<T>::infinity();
    const Shape<T> s = shape(b);
    const auto part = [&](T first, T last, T size) {
      if (kind != Kind::kNormal) return kind == Kind::kOdd ? kAll : -kAll;
      const T ends = mul_rn(2 * kEpsilon, std::abs(first) + std::abs(last));
      return add_rn(add_rn(mul_rn(reach_factor_, size), ends), std::numeric_limits<T>::min());
    };
    return {s.cx, s.cy, part(b.x, b.z + pixel_offset_, s.w), part(b.y, b.w + pixel_offset_, s.h)};
  }
  // False only where no box of the one span removes one of the other; true of what is no number. Six operations, of which
  // two compare.
  SSD_HOST_DEVICE static bool near(Vec4<T> a, Vec4<T> b) {
    const bool x = std::abs(a.x - b.x) > a.z + b.z, y = std::abs(a.y - b.y) > a.w + b.w;
    return !(x | y);
  }

  // Where boxes of a level that may remove one of this shape are filed.
  SSD_HOST_DEVICE Cells<T> cells(const Shape<T>& s, int level) const {
    const T largest = power_of_two<T>(level + 1), inverse = cells_in_one(level);
    const T rx = reach(s.w, s.cx, largest), ry = reach(s.h, s.cy, largest);
    const T left = s.cx - rx, right = s.cx + rx, top = s.cy - ry, bottom = s.cy + ry;
    const auto cell = [&](T at) { return floor_to_int(mul_rn(at, inverse)); };
    // Along an axis these are a whole number below (last - first) / cell + 2, and what that is rounded to is not less. A centre
    // is finite, so that the ends are not the same infinity.
    const auto most = [&](T first, T last) { return add_rn(mul_rn(last - first, inverse), T(2)); };
    return {cell(left), cell(right), cell(top), cell(bottom),
            mul_rn(most(left, right), most(top, bottom))};
  }

 private:
  SSD_HOST_DEVICE static T centre(T first, T last) {
    return add_rn(mul_rn(T(0.5), first), mul_rn(T(0.5), last));
  }
  // How many cells of a level are as long as 1.
  SSD_HOST_DEVICE T cells_in_one(int level) const { return power_of_two<T>(finer_ - (level + 1)); }
  // How far a centre may lie from that of a box `size` long, along one axis, when the other box is at most
  // `largest` long: along an axis too, overlap / union is at least the IoU, so the distance is at most
  // (a + b) (1 - t) / (2 (1 + t)), and b at most a / t.
  SSD_HOST_DEVICE T reach(T size, T centre, T largest) const {
    using Limits = std::numeric_limits<T>;
    const T b = min_number(mul_rn(size, most_ratio_), largest);
    const T rounded = add_rn(mul_rn(3 * Limits::epsilon(), std::abs(centre)), Limits::min());
    return add_rn(mul_rn(size + b, reach_factor_), rounded);
  }

  int finer_;
  T pixel_offset_;
  // Narrowed to T away from what they bound; the factor with the slack of all sizes.
  T least_iou_, reach_factor_, most_ratio_;
};

}  // namespace nms
}  // namespace ssd_cuda
