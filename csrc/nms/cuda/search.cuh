// How a team of lanes finds the boxes that may remove one box: the bins of the cells in reach, the odd boxes, or every
// box of a range of ranks where cells would be too many.
//
// Each lane looks up a cell; then the boxes of all these cells are dealt to the lanes one by one, whichever cell they
// are of, so that a crowded cell keeps no lane waiting. The level of the box itself comes first: most removers are there.
#pragma once

#include "nms_args.cuh"

namespace ssd_cuda {

// kLanes neighbouring lanes of a warp that work on one box. All teams of a warp go through the searches together, those
// without work too: a collective that names a part of the warp only is many instructions, and runs part by part.
template <int kLanes>
struct NmsTeam {
  static constexpr unsigned kAll = 0xffffffffu;
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  // A bit a lane, from bit 0.
  static __device__ unsigned ballot(bool value) {
    const unsigned all = __ballot_sync(kAll, value);
    return kLanes == 32
               ? all
               : (all >> (threadIdx.x % 32 / kLanes * kLanes)) & ((1u << (kLanes % 32)) - 1);
  }
  static __device__ bool any(bool value) { return ballot(value) != 0; }
  template <typename V>
  static __device__ V from(V value, int source) {
    return __shfl_sync(kAll, value, source, kLanes);
  }
};

static __device__ __forceinline__ bool nms_any_of_warp(bool value) {
  return __any_sync(0xffffffffu, value);
}

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

// A visitor is called by the whole warp, visit(valid, index): each lane has an index, or none. What it returns is the same
// for all lanes of a team: whether that is enough for its box. So do these, for the teams that are `active`.

// index = at(i), i in [0, count), in ascending order of i.
template <int kLanes, typename At, typename Visit>
__device__ bool nms_scan(bool active, int64_t count, const At& at, const Visit& visit) {
  int64_t left = active ? count : 0;
  for (int64_t i = NmsTeam<kLanes>::lane(); nms_any_of_warp(i < left); i += kLanes) {
    if (visit(i < left, i < left ? at(i) : int64_t{0})) active = false, left = 0;
  }
  return !active;
}

// The slots of the bins that the lanes hold, dealt to the lanes; a team without work holds empty ones.
template <int kLanes, typename Visit>
__device__ bool nms_scan_bins(NmsBin bin, const Visit& visit) {
  using Team = NmsTeam<kLanes>;
  const int lane = Team::lane();
  int end = bin.size;  // of the slots of this lane's bin and of those before it
#pragma unroll
  for (int offset = 1; offset < kLanes; offset *= 2) {
    const int other = __shfl_up_sync(Team::kAll, end, static_cast<unsigned>(offset), kLanes);
    if (lane >= offset) end += other;
  }
  int left = Team::from(end, kLanes - 1);
  const int offset = bin.start - (end - bin.size);
  bool enough = false;
  for (int i = lane; nms_any_of_warp(i < left); i += kLanes) {
    int holder = 0;  // how many lanes have all their slots before i
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      if (Team::from(end, holder + step - 1) <= i) holder += step;
    }
    if (visit(i < left, Team::from(offset, holder) + i)) enough = true, left = 0;
  }
  return enough;
}

// Row of a cell that is counted along rows of `width`. The multiplication is exact for so few cells.
static __device__ __forceinline__ int nms_row(int cell, int width) {
  if (cell >= 1 << 16) return cell / width;
  return static_cast<int>((static_cast<float>(cell) + 0.5f) / static_cast<float>(width));
}

// The slots of the cells of one level.
template <int kLanes, typename T, typename Visit>
__device__ bool nms_search_level(bool active, const NmsArgs<T>& args, const NmsQuery<T>& query,
                                 const NmsBin* bins, const nms::Cells& cells, int level,
                                 const Visit& visit) {
  const int width = active ? static_cast<int>(cells.width()) : 0;
  int left = active ? width * static_cast<int>(cells.height()) : 0;
  bool enough = false;
  for (int cell = NmsTeam<kLanes>::lane(); nms_any_of_warp(cell < left); cell += kLanes) {
    NmsBin bin{0, 0};
    if (cell < left) {
      const int row = nms_row(cell, width);
      const uint64_t hash =
          args.grid.cell_hash(cells.x_first + (cell - row * width),
                              args.grid.row_hash(cells.y_first + row, level, query.cls));
      bin = bins[hash & args.bin_mask()];
    }
    if (nms_scan_bins<kLanes>(bin, visit)) enough = true, left = 0;
  }
  return enough;
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
__device__ bool nms_search(bool active, const NmsArgs<T>& args, const NmsQuery<T>& query,
                           const NmsBin* bins, int64_t begin, int64_t end, const BySlot& by_slot,
                           const ByRank& by_rank) {
  bool everywhere = active && query.odd;
  bool enough = nms_scan<kLanes>(
      active && !everywhere, args.counters().num_odd,
      [&](int64_t i) { return static_cast<int64_t>(args.odd[i]); },
      [&](bool valid, int64_t j) { return by_rank(valid && j >= begin && j < end, j); });
  enough = enough && active && !everywhere;
  const uint32_t* levels = args.counters().levels;
  constexpr int kZero = nms::kLevels / 2;
  nms::Shape shape{};
  int own = 0, last = -1, next = 0;  // no level: for teams without work
  if (active && !everywhere && !enough) {
    shape = args.grid.shape(query.box);
    own = shape.level + kZero;
    last = args.grid.highest_level(shape) + kZero;
    next = args.grid.lowest_level(shape) + kZero - 1;
  }
  for (int level = own; nms_any_of_warp(level <= last);) {
    nms::Cells cells{};
    bool on = level <= last;
    if (on) {
      cells = args.grid.cells(shape, level - kZero);
      everywhere = cells.count > 64 && cells.count * 8 > static_cast<double>(end - begin);
      on = !everywhere;
    }
    if (nms_search_level<kLanes>(on, args, query, bins, cells, level - kZero, by_slot)) {
      enough = true;
    }
    if (enough || everywhere) last = -1, next = 0;
    next = nms_next_level(levels, next, last);
    if (next == own) next = nms_next_level(levels, next, last);
    level = next;
  }
  everywhere = everywhere && !enough;
  if (!nms_any_of_warp(everywhere)) return enough;
  const bool found =
      nms_scan<kLanes>(everywhere, end - begin, [&](int64_t i) { return begin + i; }, by_rank);
  return enough || (everywhere && found);
}

}  // namespace ssd_cuda
