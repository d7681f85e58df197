// How a team of lanes finds the boxes that may remove one box: the bins of the cells in reach, the odd boxes, or every
// box of a range of ranks where cells would be too many.
//
// Each lane looks up a cell; then the boxes of all these cells are dealt to the lanes one by one, whichever cell they
// are of, so that a crowded cell keeps no lane waiting. The level of the box itself comes first: most removers are there.
#pragma once

#include "nms_args.cuh"

namespace ssd_cuda {

// kLanes neighbouring lanes of a warp that work on one box.
template <int kLanes>
struct NmsTeam {
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  static __device__ int first() { return static_cast<int>(threadIdx.x) % 32 / kLanes * kLanes; }
  static __device__ unsigned mask() {
    return kLanes == 32 ? 0xffffffffu : ((1u << (kLanes % 32)) - 1) << first();
  }
  static __device__ bool any(bool value) { return __any_sync(mask(), value); }
  // A bit a lane, from bit 0.
  static __device__ unsigned ballot(bool value) { return __ballot_sync(mask(), value) >> first(); }
  static __device__ void sync() { __syncwarp(mask()); }
  template <typename V>
  static __device__ V from(V value, int source) {
    return __shfl_sync(mask(), value, source, kLanes);
  }
};

// One box that looks for others.
template <typename T>
struct NmsQuery {
  Vec4<T> box;
  T area;
  bool odd;
  int32_t rank;
  int64_t cls;

  __device__ NmsQuery(const NmsArgs<T>& args, int64_t p)
      : box(args.box(p)),
        area(args.rule.area(box)),
        odd(args.homes[p] < 0),
        rank(static_cast<int32_t>(p)),
        cls(args.class_of(p)) {}

  // Whether another box removes this one when it is kept and of the same class.
  __device__ bool overlaps(const NmsArgs<T>& args, Vec4<T> other) const {
    return args.rule(other, args.rule.area(other), box, area);
  }
  // Whether the box of rank *j is of this one's class; j is read only where that is a question.
  __device__ bool of_class(const NmsArgs<T>& args, const int32_t* j) const {
    return !args.classes || args.classes[*j] == cls;
  }
  __device__ bool removed_by(const NmsArgs<T>& args, int64_t j) const {
    return overlaps(args, args.box(j)) && args.class_of(j) == cls;
  }
};

// A visitor is called by the whole team, visit(valid, index): each lane has an index, or none. What it returns is the same
// for all lanes: whether to stop. So do these, which return it.

// index = at(i), i in [0, count), in ascending order of i.
template <int kLanes, typename At, typename Visit>
__device__ bool nms_scan(int64_t count, const At& at, const Visit& visit) {
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t i = first + NmsTeam<kLanes>::lane();
    if (visit(i < count, i < count ? at(i) : int64_t{0})) return true;
  }
  return false;
}

// The slots of the bins that the lanes hold, dealt to the lanes.
template <int kLanes, typename Visit>
__device__ bool nms_scan_bins(NmsBin bin, const Visit& visit) {
  using Team = NmsTeam<kLanes>;
  const int lane = Team::lane();
  int end = bin.size;  // of the slots of this lane's bin and of those before it
#pragma unroll
  for (int offset = 1; offset < kLanes; offset *= 2) {
    const int other = __shfl_up_sync(Team::mask(), end, static_cast<unsigned>(offset), kLanes);
    if (lane >= offset) end += other;
  }
  const int total = Team::from(end, kLanes - 1), offset = bin.start - (end - bin.size);
  for (int first = 0; first < total; first += kLanes) {
    const int i = first + lane;
    int holder = 0;  // how many lanes have all their slots before i
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      if (Team::from(end, holder + step - 1) <= i) holder += step;
    }
    if (visit(i < total, Team::from(offset, holder) + i)) return true;
  }
  return false;
}

// The slots of the cells of one level.
template <int kLanes, typename T, typename Visit>
__device__ bool nms_search_level(const NmsArgs<T>& args, const NmsQuery<T>& query,
                                 const NmsBin* bins, const nms::Cells& cells, int level,
                                 const Visit& visit) {
  const int width = static_cast<int>(cells.width()),
            count = width * static_cast<int>(cells.height());
  for (int first = 0; first < count; first += kLanes) {
    const int cell = first + NmsTeam<kLanes>::lane();
    NmsBin bin{0, 0};
    if (cell < count) {
      const uint64_t row = args.grid.row_hash(cells.y_first + cell / width, level, query.cls);
      bin = bins[args.grid.cell_hash(cells.x_first + cell % width, row) & args.bin_mask()];
    }
    if (nms_scan_bins<kLanes>(bin, visit)) return true;
  }
  return false;
}

// The next level after this one that a normal box has, or one beyond `last`.
static __device__ __forceinline__ int nms_next_level(const uint32_t* levels, int after, int last) {
  for (int level = after + 1; level <= last; level = (level / 32 + 1) * 32) {
    const uint32_t bits = levels[level / 32] >> (level % 32);
    if (bits != 0) return level + __ffs(static_cast<int>(bits)) - 1;
  }
  return last + 1;
}

// Every box of ranks [begin, end) that may remove the query's; some twice, some that cannot. by_slot visits slots of
// bins, by_rank ranks: the odd boxes, or all of the range.
template <int kLanes, typename T, typename BySlot, typename ByRank>
__device__ bool nms_search(const NmsArgs<T>& args, const NmsQuery<T>& query, const NmsBin* bins,
                           int64_t begin, int64_t end, const BySlot& by_slot,
                           const ByRank& by_rank) {
  bool everywhere = query.odd;
  if (!everywhere) {
    const bool stopped = nms_scan<kLanes>(
        args.counters().num_odd, [&](int64_t i) { return static_cast<int64_t>(args.odd[i]); },
        [&](bool valid, int64_t j) { return by_rank(valid && j >= begin && j < end, j); });
    if (stopped) return true;
    const uint32_t* levels = args.counters().levels;
    const nms::Shape shape = args.grid.shape(query.box);
    const int own = shape.level + nms::kLevels / 2;
    const int last = args.grid.highest_level(shape) + nms::kLevels / 2;
    int next = args.grid.lowest_level(shape) + nms::kLevels / 2 - 1;
    for (int level = own; level <= last && !everywhere;) {
      const nms::Cells cells = args.grid.cells(shape, level - nms::kLevels / 2);
      everywhere = cells.count > 64 && cells.count * 8 > static_cast<double>(end - begin);
      if (!everywhere &&
          nms_search_level<kLanes>(args, query, bins, cells, level - nms::kLevels / 2, by_slot)) {
        return true;
      }
      next = nms_next_level(levels, next, last);
      if (next == own) next = nms_next_level(levels, next, last);
      level = next;
    }
  }
  return everywhere && nms_scan<kLanes>(end - begin, [&](int64_t i) { return begin + i; }, by_rank);
}

}  // namespace ssd_cuda
