// The hashed grid of kept boxes on the CPU: cells of vectors. nms_grid.h has the argument.
#pragma once

#include <vector>

#include "nms/nms_grid.h"
#include "nms_kept.h"

namespace ssd_cuda {
namespace nms {

template <typename T>
class Grid {
 public:
  explicit Grid(const SuppressRule<T>& rule) : rule_(rule), grid_(rule) {}

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
      const Shape s = grid_.shape(candidates[k].box);
      home_[k] = bucket(grid_.home_hash(s, candidates[k].cls));
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
    ++kept_at_level_[grid_.shape(candidate.box).level + kLevels / 2];
  }

  // Whether a kept normal box removes q; all: the list of every kept box, for boxes whose reach covers too
  // many cells.
  template <typename V>
  SSD_SIMD_BODY bool removes(const Candidate<T>& q, const KeptList<T>& all) const {
    const Shape s = grid_.shape(q.box);
    const int low = std::max(lowest_, grid_.lowest_level(s));
    const int high = std::min(highest_, grid_.highest_level(s));
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

  SSD_SIMD_BODY uint32_t bucket(uint64_t hash) const { return static_cast<uint32_t>(hash & mask_); }

  template <typename V>
  SSD_SIMD_BODY bool level_removes(const Candidate<T>& q, const Shape& s, int level,
                                   const KeptList<T>& all) const {
    const Cells cells = grid_.cells(s, level);
    if (cells.count > 48 && cells.count * 32 > static_cast<double>(all.size))
      return any_removes<V>(all, q, rule_);
    constexpr int64_t kLanes = sizeof(V) / sizeof(T);
    auto mask = V{} > V{};
    for (int64_t iy = cells.y_first; iy <= cells.y_last; ++iy) {
      const uint64_t row = grid_.row_hash(iy, level, q.cls);
      for (int64_t ix = cells.x_first; ix <= cells.x_last; ++ix) {
        const Bucket b = buckets_[bucket(grid_.cell_hash(ix, row))];
        for (int64_t slot = b.begin; slot < b.end; slot += kLanes) {
          mask |= removed_by<V>(slots_, slot, q, rule_);
        }
      }
    }
    return any_lane(mask);
  }

  SuppressRule<T> rule_;
  GridRule<T> grid_;
  uint64_t mask_ = 0;
  std::vector<Bucket> buckets_;
  std::vector<uint32_t> home_;  // bucket of each candidate
  std::vector<int32_t> kept_at_level_;
  KeptList<T> slots_;
  int lowest_ = kLevels / 2, highest_ = -kLevels / 2;
};

}  // namespace nms
}  // namespace ssd_cuda
