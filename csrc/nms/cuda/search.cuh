// How a team of lanes finds the boxes that may remove one box: the bins of the cells in reach, the odd boxes, or every
// box of a range of ranks where cells would be too many.
//
// Each lane reckons the cells of a level; all these cells are dealt to the lanes, which look up their bins, several at
// once; then the boxes of these bins are dealt one by one, whichever cell they are of, so that a crowded cell keeps no
// lane waiting.
#pragma once

#include "nms_args.cuh"

namespace ssd_cuda {

// A box that was read from a slot, and its rank or where that stands.
template <typename T>
struct NmsSlotBox {
  Vec4<T> box;
  int32_t at;
};

// kLanes neighbouring lanes of a warp that work on one box. All teams of a warp go through the searches together, those
// without work too: a collective that names a part of the warp only is many instructions, and runs part by part.
template <int kLanes>
struct NmsTeam {
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  // A bit a lane, from bit 0.
  static __device__ unsigned ballot(bool value) {
    const unsigned all = __ballot_sync(kFullWarp, value);
    return kLanes == 32
               ? all
               : (all >> (threadIdx.x % 32 / kLanes * kLanes)) & ((1u << (kLanes % 32)) - 1);
  }
  static __device__ bool any(bool value) { return ballot(value) != 0; }
  template <typename V>
  static __device__ V from(V value, int source) {
    return __shfl_sync(kFullWarp, value, source, kLanes);
  }
};

static __device__ __forceinline__ bool nms_any_of_warp(bool value) {
  return __any_sync(kFullWarp, value);
}

// One box that looks for others.
template <typename T>
struct NmsQuery {
  Vec4<T> box;
  T area;
  bool odd;
  int32_t rank;

  __device__ NmsQuery(const NmsArgs<T>& args, int64_t p)
      : box(args.box(p)),
        area(args.rule.area(box)),
        odd(args.homes[p] < 0),
        rank(static_cast<int32_t>(p)) {}

  // Whether another box removes this one when it is kept and of the same class.
  __device__ bool overlaps(const NmsArgs<T>& args, Vec4<T> other) const {
    return args.rule(other, args.rule.area(other), box, area);
  }
  // Whether the box of rank *j is of this one's class; j is read only where that is a question. Few pairs get so far, so
  // the class is not held in registers.
  __device__ bool of_class(const NmsArgs<T>& args, const int32_t* j) const {
    return !args.classes || args.classes[*j] == args.classes[rank];
  }
  __device__ bool removed_by(const NmsArgs<T>& args, int64_t j) const {
    return overlaps(args, args.box(j)) && args.class_of(j) == args.class_of(rank);
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

// The first lane of the team whose `end` is beyond i; ends ascend. The last lane where there is none.
template <int kLanes>
__device__ __forceinline__ int nms_holder(int end, int i) {
  int holder = 0;  // so many lanes end before i
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    if (NmsTeam<kLanes>::from(end, holder + step - 1) <= i) holder += step;
  }
  return holder;
}

// The slots of the bins that the lanes hold, kBins each, dealt to the lanes; a team without work holds empty ones. What
// read(slot) gives is visited.
template <int kLanes, int kBins, typename Read, typename Visit>
__device__ bool nms_scan_bins(const NmsBin (&bins)[kBins], const Read& read, const Visit& visit) {
  using Team = NmsTeam<kLanes>;
  const int lane = Team::lane();
  int own = 0;
#pragma unroll
  for (int u = 0; u < kBins; ++u) own += bins[u].size;
  int end = own;  // of the slots of this lane and of those before it
#pragma unroll
  for (int offset = 1; offset < kLanes; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, end, static_cast<unsigned>(offset), kLanes);
    if (lane >= offset) end += other;
  }
  int left = Team::from(end, kLanes - 1);
  int first[kBins], offset[kBins];  // bin u holds slots from number first[u] on: number + offset[u]
  first[0] = end - own;
#pragma unroll
  for (int u = 0; u < kBins; ++u) {
    if (u > 0) first[u] = first[u - 1] + bins[u - 1].size;
    offset[u] = bins[u].start - first[u];
  }
  bool enough = false;
  constexpr int kAtOnce = ceil_div(kNmsSlotsAtOnce, kLanes);
  for (int first_of_step = lane; nms_any_of_warp(first_of_step < left);
       first_of_step += kAtOnce * kLanes) {
    decltype(read(0)) items[kAtOnce] = {};
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int i = first_of_step + s * kLanes;
      if (s > 0 && !nms_any_of_warp(i < left)) break;
      const int holder = nms_holder<kLanes>(end, i);
      int slot = i + Team::from(offset[0], holder);
#pragma unroll
      for (int u = 1; u < kBins; ++u) {
        const int begin = Team::from(first[u], holder), moved = Team::from(offset[u], holder);
        slot = i >= begin ? i + moved : slot;
      }
      if (i < left) items[s] = read(slot);
    }
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int i = first_of_step + s * kLanes;
      if (s > 0 && !nms_any_of_warp(i < left)) break;
      if (visit(i < left, items[s])) enough = true, left = 0;
    }
  }
  return enough;
}

// Of a level: so many of all lanes can be added, and a cell's row be found by a multiplication of floats: (cell + 1/2) / width
// is 1 / (2 width) from a whole number at least, and below 2^22 times 2^-23 nearer.
constexpr int64_t kNmsMostCells = int64_t{1} << 21;

// What a lane knows of one level in reach of its team's box: `count` cells, from the first one of the first row on.
struct NmsReach {
  uint64_t row = 0;  // GridRule::row_number
  uint32_t x = 0;    // modulo 2^32, as there are fewer bins
  int width = 1, count = 0;
  float row_of_cell = 1;    // 1 / width
  bool everywhere = false;  // too many cells: all boxes are less
};

template <typename T>
__device__ __forceinline__ NmsReach nms_reach(const NmsArgs<T>& args, const NmsQuery<T>& query,
                                              int level, int64_t boxes) {
  const nms::Shape<T> shape = args.grid.shape(query.box);
  const nms::Cells<T> cells = args.grid.cells(shape, level);
  NmsReach reach;
  const T most = static_cast<T>(static_cast<int>(min(boxes, 8 * kNmsMostCells)));
  reach.everywhere = cells.count > 64 && cells.count * 8 > most;
  if (reach.everywhere) return reach;
  reach.row = args.grid.row_number(cells.y_first, level, args.class_of(query.rank));
  reach.x = static_cast<uint32_t>(cells.x_first);
  reach.width = static_cast<int>(cells.width());
  reach.count = reach.width * static_cast<int>(cells.height());
  reach.row_of_cell = 1.0f / static_cast<float>(reach.width);
  return reach;
}

// The bin of a cell, counted along the levels of the lanes, whose cells end at `end`. Called by the warp.
template <int kLanes, typename T>
__device__ __forceinline__ const NmsBin* nms_bin_of(const NmsArgs<T>& args, const NmsReach& reach,
                                                    int end, const NmsBin* bins, int cell) {
  using Team = NmsTeam<kLanes>;
  const int holder = nms_holder<kLanes>(end, cell);
  const int in_level = max(cell - Team::from(end - reach.count, holder), 0);
  const int width = Team::from(reach.width, holder);
  const float row_of_cell = Team::from(reach.row_of_cell, holder);
  const uint64_t number = Team::from(reach.row, holder);
  const uint32_t x = Team::from(reach.x, holder);
  const int row = static_cast<int>(mul_rn(static_cast<float>(in_level) + 0.5f, row_of_cell));
  const uint64_t hash = args.grid.mix(number + static_cast<uint32_t>(row) * args.grid.kRowStep);
  const uint32_t column = x + static_cast<uint32_t>(in_level - row * width);
  return bins + (args.grid.cell_hash(column, hash) & args.bin_mask());
}

// The slots of the cells that the lanes know of.
template <int kLanes, typename T, typename Read, typename Visit>
__device__ bool nms_search_cells(const NmsArgs<T>& args, const NmsReach& reach, const NmsBin* bins,
                                 const Read& read, const Visit& visit) {
  using Team = NmsTeam<kLanes>;
  constexpr int kAtOnce = ceil_div(kNmsCellsAtOnce, kLanes);
  int end = reach.count;  // of the cells of this lane and of those before it
#pragma unroll
  for (int offset = 1; offset < kLanes; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, end, static_cast<unsigned>(offset), kLanes);
    if (Team::lane() >= offset) end += other;
  }
  int left = Team::from(end, kLanes - 1);
  bool enough = false;
  for (int first = Team::lane(); nms_any_of_warp(first < left); first += kAtOnce * kLanes) {
    NmsBin found[kAtOnce] = {};
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (u > 0 && !nms_any_of_warp(first + u * kLanes < left)) break;
      // No load waits for another: beyond the last cell of a team it is that one's bin.
      found[u] = *nms_bin_of<kLanes>(args, reach, end, bins, min(first + u * kLanes, left - 1));
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (first + u * kLanes >= left) found[u].size = 0;
    }
    if (nms_scan_bins<kLanes>(found, read, visit)) enough = true, left = 0;
  }
  return enough;
}

// Every box of ranks [begin, end) that may remove the query's; some twice, some that cannot. by_slot visits what read gives
// of the slots of bins, by_rank ranks: the odd boxes, or all of the range. A lane a level of those that there are, usually all at once.
template <int kLanes, typename T, typename Read, typename BySlot, typename ByRank>
__device__ bool nms_search(bool active, const NmsArgs<T>& args, const NmsQuery<T>& query,
                           const NmsBin* bins, int64_t begin, int64_t end, const Read& read,
                           const BySlot& by_slot, const ByRank& by_rank) {
  using Team = NmsTeam<kLanes>;
  const NmsCounters& counters = args.counters();
  const int num_levels = static_cast<int>(counters.num_levels);
  const int64_t num_odd = counters.num_odd;
  int level = counters.levels[Team::lane()];
  bool everywhere = active && query.odd;
  bool enough = nms_scan<kLanes>(
      active && !everywhere, num_odd, [&](int64_t i) { return static_cast<int64_t>(args.odd[i]); },
      [&](bool valid, int64_t j) { return by_rank(valid && j >= begin && j < end, j); });
  enough = enough && active && !everywhere;
  int lowest = 0, highest = -1;  // no level: for teams without work
  if (active && !everywhere && !enough) {
    const nms::Shape<T> shape = args.grid.shape(query.box);
    lowest = args.grid.lowest_level(shape), highest = args.grid.highest_level(shape);
  }
  for (int first = 0; first < num_levels; first += kLanes) {
    if (first > 0) level = counters.levels[first + Team::lane()];
    const bool on = first + Team::lane() < num_levels && level >= lowest && level <= highest;
    NmsReach reach;
    if (on) reach = nms_reach(args, query, level, end - begin);
    if (Team::any(reach.everywhere)) everywhere = true, highest = lowest - 1, reach.count = 0;
    if (nms_search_cells<kLanes>(args, reach, bins, read, by_slot))
      enough = true, highest = lowest - 1;
  }
  everywhere = everywhere && !enough;
  if (!nms_any_of_warp(everywhere)) return enough;
  const bool found =
      nms_scan<kLanes>(everywhere, end - begin, [&](int64_t i) { return begin + i; }, by_rank);
  return enough || (everywhere && found);
}

}  // namespace ssd_cuda
