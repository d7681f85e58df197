// The hashed grid of kept boxes: see nms_sweep.h for the argument.
#pragma once

#include <vector>

#include "nms_kept.h"

namespace ssd_cuda {
namespace nms {

// The level of a size: floor(log2(size)); size is a positive normal double.
inline int level_of(double size) {
  uint64_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  return static_cast<int>(bits >> 52) - 1023;
}
inline double power_of_two(int exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// floor, held inside what int64 can take; monotone, so a range of centres stays a range of cells.
SSD_SIMD_BODY inline int64_t floor_to_int(double value) {
  value = std::min(std::max(value, -0x1p61), 0x1p61);
  const auto whole = static_cast<int64_t>(value);
  return whole - (value < static_cast<double>(whole));
}

struct Shape {
  double cx, cy, w, h;
  int level;
};

template <typename T>
class Grid {
 public:
  explicit Grid(const SuppressRule<T>& rule) : rule_(rule) {
    // The least true IoU of a pair whose rounded IoU passes. Below, only "they overlap" is used.
    const double t = rule.threshold;
    if (rule.pixel_offset == 0) {
      least_iou_ = t < 1e-5 ? 0 : t * (1 - 1e-5);
    } else {
      least_iou_ = t < 1e-2 ? 0 : t * (1 - 1e-3);
    }
    reach_factor_ = (1 - least_iou_) / (2 * (1 + least_iou_));
  }

  bool built() const { return !buckets_.empty(); }

  // Makes room for the normal boxes among the n candidates, each of which may be kept.
  __attribute__((noinline)) void build(const Candidate<T>* candidates, const Kind* kinds,
                                       int64_t n) {
    uint64_t size = 64;
    while (size < static_cast<uint64_t>(n)) size *= 2;
    mask_ = size - 1;
    buckets_.assign(size, Bucket{0, 0});
    home_.resize(n);
    kept_at_level_.assign(kLevels, 0);
    for (int64_t k = 0; k < n; ++k) {
      if (kinds[k] != Kind::kNormal) continue;
      const Shape s = shape(candidates[k].box);
      const double inverse = power_of_two(-(s.level + 1));
      home_[k] = bucket(floor_to_int(s.cx * inverse),
                        row(floor_to_int(s.cy * inverse), s.level, candidates[k].cls));
      ++buckets_[home_[k]].end;
      lowest_ = std::min(lowest_, s.level), highest_ = std::max(highest_, s.level);
    }
    uint32_t total = 0;
    for (Bucket& b : buckets_) {
      b.begin = total;
      total += b.end;
      b.end = b.begin;
    }
    slots_.reserve(total);
  }

  // Candidate k of build() was kept.
  void insert(int64_t k, const Candidate<T>& candidate) {
    slots_.set(buckets_[home_[k]].end++, candidate.box, candidate.area, candidate.cls);
    ++kept_at_level_[shape(candidate.box).level + kLevels / 2];
  }

  // Whether a kept normal box removes q; all: the list of every kept box, for boxes whose reach covers too
  // many cells.
  template <typename V>
  SSD_SIMD_BODY bool removes(const Candidate<T>& q, const KeptList<T>& all) const {
    const Shape s = shape(q.box);
    const double longer = std::max(s.w, s.h);
    const int low = std::max(lowest_, level_of(std::max(longer * least_iou_, kSmallest)));
    const int high =
        std::min(highest_, level_of(std::min(longer / std::max(least_iou_, kSmallest), kLargest)));
    if (kept_at_level_[s.level + kLevels / 2]) {
      if (level_removes<V>(q, s, s.level, all)) return true;
    }
    for (int level = low; level <= high; ++level) {
      if (level == s.level || !kept_at_level_[level + kLevels / 2]) continue;
      if (level_removes<V>(q, s, level, all)) return true;
    }
    return false;
  }

 private:
  struct Bucket {
    uint32_t begin, end;  // slots in use
  };
  static constexpr int kLevels = 2 * 1100;
  static constexpr double kSmallest = 1e-300, kLargest = 1e300;

  SSD_SIMD_BODY Shape shape(Vec4<T> b) const {
    const double x1 = b.x, y1 = b.y, x2 = double(b.z) + rule_.pixel_offset,
                 y2 = double(b.w) + rule_.pixel_offset;
    const double w = x2 - x1, h = y2 - y1;
    return {0.5 * x1 + 0.5 * x2, 0.5 * y1 + 0.5 * y2, w, h, level_of(std::max(w, h))};
  }

  SSD_SIMD_BODY uint64_t row(int64_t iy, int level, LaneInt<T> cls) const {
    uint64_t h = static_cast<uint64_t>(iy) * 0x9e3779b97f4a7c15ull +
                 static_cast<uint64_t>(level) * 0xc2b2ae3d27d4eb4full +
                 static_cast<uint64_t>(cls) * 0x165667b19e3779f9ull;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93ull;
    return h ^ (h >> 32);
  }
  // Cells of one row are neighbours in memory.
  SSD_SIMD_BODY uint32_t bucket(int64_t ix, uint64_t row_hash) const {
    return static_cast<uint32_t>((row_hash + static_cast<uint64_t>(ix)) & mask_);
  }

  // How far a centre may lie from that of a box `size` long, along one axis, when the other box is at most
  // `largest` long: along an axis too, overlap / union is at least the IoU, so the distance is at most
  // (a + b) (1 - t) / (2 (1 + t)), and b at most a / t.
  SSD_SIMD_BODY double reach(double size, double centre, double largest) const {
    const double b = std::min(size / std::max(least_iou_, kSmallest), largest);
    return (size + b) * reach_factor_ * (1 + 1e-6) + std::abs(centre) * 1e-15;
  }

  template <typename V>
  SSD_SIMD_BODY bool level_removes(const Candidate<T>& q, const Shape& s, int level,
                                   const KeptList<T>& all) const {
    const double largest = power_of_two(level + 1), inverse = power_of_two(-(level + 1));
    const double rx = reach(s.w, s.cx, largest), ry = reach(s.h, s.cy, largest);
    const double cells = (2 * rx * inverse + 2) * (2 * ry * inverse + 2);
    if (cells > 48 && cells * 32 > static_cast<double>(all.size))
      return any_removes<V>(all, q, rule_);
    const int64_t x_first = floor_to_int((s.cx - rx) * inverse),
                  x_last = floor_to_int((s.cx + rx) * inverse),
                  y_last = floor_to_int((s.cy + ry) * inverse);
    constexpr int64_t kLanes = sizeof(V) / sizeof(T);
    auto mask = V{} > V{};
    for (int64_t iy = floor_to_int((s.cy - ry) * inverse); iy <= y_last; ++iy) {
      const uint64_t row_hash = row(iy, level, q.cls);
      for (int64_t ix = x_first; ix <= x_last; ++ix) {
        const Bucket b = buckets_[bucket(ix, row_hash)];
        for (int64_t slot = b.begin; slot < b.end; slot += kLanes) {
          mask |= removed_by<V>(slots_, slot, q, rule_);
        }
      }
    }
    return any_lane(mask);
  }

  SuppressRule<T> rule_;
  double least_iou_, reach_factor_;
  uint64_t mask_ = 0;
  std::vector<Bucket> buckets_;
  std::vector<uint32_t> home_;  // bucket of each candidate
  std::vector<int32_t> kept_at_level_;
  KeptList<T> slots_;
  int lowest_ = kLevels / 2, highest_ = -kLevels / 2;
};

}  // namespace nms
}  // namespace ssd_cuda
