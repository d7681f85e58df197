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
// Bounds are widened by far more than rounding. Boxes for which that argument fails (areas near the ends of the floating
// range) are odd: tested against every box, and every box against them. Boxes without a positive finite area are inert:
// they remove nothing and are never removed.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

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
constexpr double kSmallest = 1e-300, kLargest = 1e300;

// The level of a size: floor(log2(size)); size is a positive normal double.
SSD_HOST_DEVICE int level_of(double size) {
  return static_cast<int>(bit_copy<uint64_t>(size) >> 52) - 1023;
}
SSD_HOST_DEVICE double power_of_two(int exponent) {
  return bit_copy<double>(static_cast<uint64_t>(exponent + 1023) << 52);
}
// floor, held inside what int64 can take; monotone, so a range of centres stays a range of cells.
SSD_HOST_DEVICE int64_t floor_to_int(double value) {
#if defined(__CUDA_ARCH__)
  return __double2ll_rd(value);  // one instruction, which holds itself inside int64
#else
  value = min_of(max_of(value, -0x1p61), 0x1p61);
  const auto whole = static_cast<int64_t>(value);
  return whole - (value < static_cast<double>(whole));
#endif
}

struct Shape {
  double cx, cy, w, h;
  int level;
};

// The cells of a level where a search looks: [x_first, x_last] by [y_first, y_last].
struct Cells {
  int64_t x_first, x_last, y_first, y_last;
  double count;  // about how many, never too few; the exact number may overflow

  SSD_HOST_DEVICE int64_t width() const { return x_last - x_first + 1; }
  SSD_HOST_DEVICE int64_t height() const { return y_last - y_first + 1; }
};

// What the grid of a rule is made of; the hashing is modulo a power of two that its user picks.
template <typename T>
class GridRule {
 public:
  // A cell is as long as the longest box of its level over 2^finer.
  explicit GridRule(const SuppressRule<T>& rule, int finer = 0)
      : finer_(finer), pixel_offset_(rule.pixel_offset) {
    // The least true IoU of a pair whose rounded IoU passes. Below, only "they overlap" is used.
    const double t = rule.threshold;
    if (rule.pixel_offset == 0) {
      least_iou_ = t < 1e-5 ? 0 : t * (1 - 1e-5);
    } else {
      least_iou_ = t < 1e-2 ? 0 : t * (1 - 1e-3);
    }
    reach_factor_ = (1 - least_iou_) / (2 * (1 + least_iou_));
    most_ratio_ = 1 / max_of(least_iou_, kSmallest);
  }

  SSD_HOST_DEVICE Shape shape(Vec4<T> b) const {
    const double x1 = b.x, y1 = b.y, x2 = double(b.z) + pixel_offset_,
                 y2 = double(b.w) + pixel_offset_;
    const double w = x2 - x1, h = y2 - y1;
    return {0.5 * x1 + 0.5 * x2, 0.5 * y1 + 0.5 * y2, w, h, level_of(max_of(w, h))};
  }

  // The levels of boxes that may remove one of this shape: from lowest to highest.
  SSD_HOST_DEVICE int lowest_level(const Shape& s) const {
    return level_of(max_of(max_of(s.w, s.h) * least_iou_, kSmallest));
  }
  SSD_HOST_DEVICE int highest_level(const Shape& s) const {
    return level_of(min_of(max_of(s.w, s.h) * most_ratio_, kLargest));
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
  SSD_HOST_DEVICE uint64_t home_hash(const Shape& s, int64_t cls) const {
    const double inverse = power_of_two(finer_ - (s.level + 1));
    return cell_hash(floor_to_int(s.cx * inverse),
                     row_hash(floor_to_int(s.cy * inverse), s.level, cls));
  }

  // The centre of a box, and its part of how far apart the centres of a pair that counts may lie, along x and y: two of these
  // are all that near() needs. In T, where the grid reckons in double: each is wider than the roundings of its ends, its centre
  // and the sum, and by more than what is lost of subnormal numbers. An odd box is near every other, an inert one near none.
  SSD_HOST_DEVICE Vec4<T> span(Vec4<T> b, Kind kind) const {
    constexpr T kEpsilon = std::numeric_limits<T>::epsilon(),
                kAll = std::numeric_limits<T>::infinity();
    const T x2 = b.z + pixel_offset_, y2 = b.w + pixel_offset_;
    const T factor = mul_rn(static_cast<T>(reach_factor_), 1 + 32 * kEpsilon);
    const auto part = [&](T first, T last, T size) {
      if (kind != Kind::kNormal) return kind == Kind::kOdd ? kAll : -kAll;
      const T ends = mul_rn(2 * kEpsilon, std::abs(first) + std::abs(last));
      return add_rn(add_rn(mul_rn(factor, size), ends), std::numeric_limits<T>::min());
    };
    const auto centre = [](T first, T last) {
      return add_rn(mul_rn(T(0.5), first), mul_rn(T(0.5), last));
    };
    return {centre(b.x, x2), centre(b.y, y2), part(b.x, x2, b.z - b.x + pixel_offset_),
            part(b.y, y2, b.w - b.y + pixel_offset_)};
  }
  // False only where no box of the one span removes one of the other; true of what is no number. Six operations, of which
  // two compare.
  SSD_HOST_DEVICE static bool near(Vec4<T> a, Vec4<T> b) {
    const bool x = std::abs(a.x - b.x) > a.z + b.z, y = std::abs(a.y - b.y) > a.w + b.w;
    return !(x | y);
  }

  // Where boxes of a level that may remove one of this shape are filed.
  SSD_HOST_DEVICE Cells cells(const Shape& s, int level) const {
    const double largest = power_of_two(level + 1), inverse = power_of_two(finer_ - (level + 1));
    const double rx = reach(s.w, s.cx, largest), ry = reach(s.h, s.cy, largest);
    return {floor_to_int((s.cx - rx) * inverse), floor_to_int((s.cx + rx) * inverse),
            floor_to_int((s.cy - ry) * inverse), floor_to_int((s.cy + ry) * inverse),
            (2 * rx * inverse + 2) * (2 * ry * inverse + 2)};
  }

 private:
  // How far a centre may lie from that of a box `size` long, along one axis, when the other box is at most
  // `largest` long: along an axis too, overlap / union is at least the IoU, so the distance is at most
  // (a + b) (1 - t) / (2 (1 + t)), and b at most a / t.
  SSD_HOST_DEVICE double reach(double size, double centre, double largest) const {
    const double b = min_of(size * most_ratio_, largest);
    return (size + b) * reach_factor_ * (1 + 1e-6) + std::abs(centre) * 1e-15;
  }

  int finer_;
  T pixel_offset_;
  double least_iou_, reach_factor_, most_ratio_;
};

}  // namespace nms
}  // namespace ssd_cuda
