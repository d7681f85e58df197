// The hashed grid of kept boxes on the CPU: cells of vectors. nms_grid.h has the argument.
#pragma once

#include <algorithm>
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
    level_.resize(n);
    kept_at_level_.assign(kLevels, 0);
    for (int64_t k = 0; k < n; ++k) {
      if (kinds[k] != Kind::kNormal) continue;
      const Shape<T> s = grid_.shape(candidates[k].box);
      home_[k] = bucket(grid_.home_hash(s, candidates[k].cls));
      level_[k] = static_cast<int16_t>(s.level);
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

  // Candidate k of build() is kept, or may be.
  void insert(int64_t k, const Candidate<T>& candidate) {
    slots_.set(buckets_[home_[k]].end++, candidate, k);
    ++kept_at_level_[level_[k] + kLevels / 2];
  }

  // Shows the look every box of the grid that removes q, and perhaps others; all: the list of every box of the grid, for
  // boxes whose reach covers too many cells.
  template <typename V, typename Look>
  SSD_SIMD_BODY void search(const Candidate<T>& q, const KeptList<T>& all, Look& look) const {
    const Shape<T> s = grid_.shape(q.box);
    const int low = std::max(lowest_, grid_.lowest_level(s));
    const int high = std::min(highest_, grid_.highest_level(s));
    if (kept_at_level_[s.level + kLevels / 2]) search_level<V>(q, s, s.level, all, look);
    for (int level = low; level <= high && !look.removed(); ++level) {
      if (level == s.level || !kept_at_level_[level + kLevels / 2]) continue;
      search_level<V>(q, s, level, all, look);
    }
  }

 private:
  struct Bucket {
    uint32_t begin, end;  // slots in use
  };

  SSD_SIMD_BODY uint32_t bucket(uint64_t hash) const { return static_cast<uint32_t>(hash & mask_); }

  template <typename V, typename Look>
  SSD_SIMD_BODY void search_level(const Candidate<T>& q, const Shape<T>& s, int level,
                                  const KeptList<T>& all, Look& look) const {
    const Cells<T> cells = grid_.cells(s, level);
    if (cells.count > 48 && cells.count * 32 > static_cast<T>(all.size))
      return look_through<V>(all, q, rule_, look);
    for (int64_t iy = cells.y_first; iy <= cells.y_last; ++iy) {
      const uint64_t row = grid_.row_hash(iy, level, q.cls);
      for (int64_t ix = cells.x_first; ix <= cells.x_last; ++ix) {
        const Bucket b = buckets_[bucket(grid_.cell_hash(ix, row))];
        for (int64_t slot = b.begin; slot < b.end; slot += kLanesOf<V>) {
          look_at<V>(slots_, slot, q, rule_, look);
        }
      }
    }
  }

  SuppressRule<T> rule_;
  GridRule<T> grid_;
  uint64_t mask_ = 0;  // of the number of buckets, 2^bits_
  std::vector<Bucket> buckets_;
  std::vector<uint32_t> home_;  // bucket of each candidate
  std::vector<int16_t> level_;
  std::vector<int32_t> kept_at_level_;
  KeptList<T> slots_;
  int lowest_ = kLevels / 2, highest_ = -kLevels / 2;
};

}  // namespace nms
}  // namespace ssd_cuda
