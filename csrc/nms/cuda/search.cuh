// How a team of lanes finds the boxes that may remove one box: the lists of the cells in reach, the odd boxes, or every
// box of a range of ranks where cells would be too many.
//
// A team of 8 takes 8 cells at once; half of the cells in reach hold no box. A step down a list is a load that waits for
// the one before (about 250 cycles from L2): many teams a multiprocessor hide it.
#pragma once

#include "nms_args.cuh"

namespace ssd_cuda {

// kLanes neighbouring lanes of a warp that work on one box.
template <int kLanes>
struct NmsTeam {
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  static __device__ unsigned mask() {
    return kLanes == 32 ? 0xffffffffu
                        : ((1u << (kLanes % 32)) - 1) << (threadIdx.x % 32 / kLanes * kLanes);
  }
  static __device__ bool any(bool value) { return __any_sync(mask(), value); }
};

// One box that looks for others in ranks [begin, end): those filed in heads.
template <typename T>
struct NmsQuery {
  Vec4<T> box;
  T area;
  nms::Kind kind;
  int64_t cls;
  const int32_t* heads;
  uint64_t heads_mask;
  int64_t begin, end;

  // Whether the box of rank j removes this one when it is kept.
  __device__ bool removed_by(const NmsArgs<T>& args, int64_t j) const {
    const Vec4<T> other = args.box(j);
    return args.rule(other, args.rule.area(other), box, area) && args.class_of(j) == cls;
  }
};

// The box of rank p, looking in ranks [begin, end) filed in heads.
template <typename T>
__device__ NmsQuery<T> nms_query(const NmsArgs<T>& args, int64_t p, const int32_t* heads,
                                 int64_t num_heads, int64_t begin, int64_t end) {
  const Vec4<T> box = args.box(p);
  const T area = args.rule.area(box);
  return {box,
          area,
          args.kind(box, area),
          args.class_of(p),
          heads,
          static_cast<uint64_t>(num_heads - 1),
          begin,
          end};
}

// visit(j) for each rank j = at(i), i in [0, count), until it returns true. Whether it did, for the whole team.
template <int kLanes, typename At, typename Visit>
__device__ bool nms_scan(int64_t count, const At& at, const Visit& visit) {
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t i = first + NmsTeam<kLanes>::lane();
    if (NmsTeam<kLanes>::any(i < count && visit(at(i)))) return true;
  }
  return false;
}

// The same over the boxes filed in the cells of one level.
template <int kLanes, typename T, typename Visit>
__device__ bool nms_search_level(const NmsArgs<T>& args, const NmsQuery<T>& query,
                                 const nms::Cells& cells, int level, const Visit& visit) {
  const int64_t width = cells.width(), count = width * cells.height();
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t cell = first + NmsTeam<kLanes>::lane();
    bool stop = false;
    if (cell < count) {
      const uint64_t row = args.grid.row_hash(cells.y_first + cell / width, level, query.cls);
      const uint64_t hash = args.grid.cell_hash(cells.x_first + cell % width, row);
      int32_t j = query.heads[hash & query.heads_mask];
      for (; j >= 0 && !stop; j = args.next[j]) stop = visit(j);
    }
    if (NmsTeam<kLanes>::any(stop)) return true;
  }
  return false;
}

// visit(j) for every box that may remove the query's; some twice, some that cannot. in_range(j): whether a box that was
// not found by its cell is one of those filed. Whether visit returned true once, for the whole team.
template <int kLanes, typename T, typename InRange, typename Visit>
__device__ bool nms_search(const NmsArgs<T>& args, const NmsQuery<T>& query,
                           const InRange& in_range, const Visit& visit) {
  const auto filtered = [&](int64_t j) { return in_range(j) && visit(j); };
  bool everywhere = query.kind == nms::Kind::kOdd;
  if (!everywhere) {
    const bool stopped = nms_scan<kLanes>(
        *args.num_odd(), [&](int64_t i) { return static_cast<int64_t>(args.odd[i]); },
        [&](int64_t j) { return j >= query.begin && j < query.end && filtered(j); });
    if (stopped) return true;
    const nms::Shape shape = args.grid.shape(query.box);
    const int low = args.grid.lowest_level(shape) + nms::kLevels / 2;
    const int high = args.grid.highest_level(shape) + nms::kLevels / 2;
    for (int word = low / 32; word <= high / 32 && !everywhere; ++word) {
      for (uint32_t bits = args.levels()[word]; bits != 0 && !everywhere; bits &= bits - 1) {
        const int level = word * 32 + __ffs(static_cast<int>(bits)) - 1;
        if (level < low || level > high) continue;
        const nms::Cells cells = args.grid.cells(shape, level - nms::kLevels / 2);
        everywhere =
            cells.count > 64 && cells.count * 8 > static_cast<double>(query.end - query.begin);
        if (!everywhere &&
            nms_search_level<kLanes>(args, query, cells, level - nms::kLevels / 2, visit)) {
          return true;
        }
      }
    }
  }
  return everywhere &&
         nms_scan<kLanes>(
             query.end - query.begin, [&](int64_t i) { return query.begin + i; }, filtered);
}

// Puts the box of rank p at the head of the list of its bucket.
template <typename T>
__device__ void nms_file(const NmsArgs<T>& args, Vec4<T> box, int64_t p, int32_t* heads,
                         int64_t num_heads) {
  const uint64_t hash = args.grid.home_hash(args.grid.shape(box), args.class_of(p));
  args.next[p] =
      atomicExch(heads + (hash & static_cast<uint64_t>(num_heads - 1)), static_cast<int32_t>(p));
}

}  // namespace ssd_cuda
