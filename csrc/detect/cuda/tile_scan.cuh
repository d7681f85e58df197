// The scan of rows that lie next to each other, a warp a tile of them: copied to shared memory in 16-byte vectors, whatever
// the alignment of a row, while the tile before is scanned. A test for the rows of a whole tile at once, some lanes a
// row, leaves out those without a candidate; the others get kRowLanes lanes each. Their numbers go into registers, where
// they wait until a warp has its fill of rows: of a trained head's tile one row in nine has a candidate.
#pragma once

#include "common/cuda/copies.cuh"
#include "greatest.cuh"
#include "scan.cuh"

namespace ssd_cuda {

constexpr int kRowLanes = 8;  // of a row with a candidate: 8, 16 or 32
constexpr int kRowsAtOnce = 32 / kRowLanes;
constexpr int kTileStages = 2;        // of a warp: one is scanned, the next is under way
constexpr int kMostTileBytes = 3904;  // 12 rows of 81 floats, beginning anywhere in a vector
constexpr int kTileVectors = ceil_div(kMostTileBytes, 16 * 32);  // a lane

// rows: of a tile, 0: the rows do not lie next to each other, or are too long. The test takes 2^shift lanes a row.
struct TilePlan {
  int rows, shift, bytes;
};

// When `warps` warps share slice_rows rows and have `room` bytes for their tiles.
template <typename T, typename S>
inline TilePlan plan_tiles(const DetectInputs<T, S>& inputs, int64_t slice_rows, int64_t warps,
                           std::size_t room) {
  const int64_t columns = inputs.num_classes, bytes = columns * static_cast<int64_t>(sizeof(S));
  int64_t tile = static_cast<int64_t>(room) / (warps * kTileStages) / 16 * 16;
  if (tile > kMostTileBytes) tile = kMostTileBytes;
  const bool together = inputs.conf.column_stride == 1 && inputs.conf.row_stride == columns;
  int64_t most = columns > 0 && tile > 16 ? (tile - 16) / bytes : 0;
  if (most > 32) most -= most % 32;  // a test takes so many
  if (!together || most == 0 || slice_rows == 0) return {0, 0, 0};
  // The same for all warps.
  const int64_t rows = ceil_div(slice_rows, warps * ceil_div(slice_rows, warps * most));
  int shift = 5;
  while (shift > 0 && rows << shift > 32) --shift;
  return {static_cast<int>(rows), shift, static_cast<int>(tile)};
}

template <typename T, typename S, int kWarps>
struct TileScan {
  static constexpr int kElements = 16 / sizeof(S);  // of a vector
  static_assert(kWarps * sizeof(S) % 16 == 0, "a warp's tiles begin at the same place of a vector");
  using Scan = RowScan<T, S>;

  Scan scan;
  unsigned char* tiles;  // [kTileStages][plan.bytes] of this warp, shared memory
  TilePlan plan;
  uintptr_t image, image_end;  // where its rows begin and end

  // Rows that wait for others: what the lanes of each hold, and what RowScan::row is told.
  struct Waiting {
    T held[Scan::template kHeld<kRowLanes>] = {};
    T top = 0;
    const S* x = nullptr;
    unsigned prior = 0;
    int count = 0;
  };

  // Begins to copy the vectors with the `wanted` elements from `source` on. inside: all of them lie in the image.
  __device__ __forceinline__ void start(uintptr_t source, uint4* place, int wanted,
                                        bool inside) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    int low = 0, high = static_cast<int>(ceil_div<unsigned>(wanted, kElements));
    if (!inside) {
      low = source < image ? 1 : 0;  // whole vectors lie in [low, high)
      const uintptr_t whole = (image_end - source) / sizeof(uint4);
      if (whole < static_cast<uintptr_t>(high)) high = static_cast<int>(whole);
      if (high < low) high = low;
      const int head =
          low > 0 ? static_cast<int>(image - source) / static_cast<int>(sizeof(S)) : kElements;
      copy_ends(reinterpret_cast<const S*>(source), reinterpret_cast<S*>(place), head,
                high * kElements, wanted);
    }
    const int mine = high - lane;
    const auto* from = reinterpret_cast<const uint4*>(source) + lane;
    [&]<int... u>(std::integer_sequence<int, u...>) {
      (copy_async<32 * u>(place + lane, from, mine > 32 * u && (u > 0 || lane >= low)), ...);
    }(std::make_integer_sequence<int, kTileVectors>());
  }

  // The elements of the two vectors that may cross an end of the image: [head, a vector) and [tail, wanted).
  __device__ __forceinline__ static void copy_ends(const S* source, S* tile, int head, int tail,
                                                   int wanted) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (lane >= head && lane < kElements && lane < wanted) tile[lane] = source[lane];
    if (tail + lane < wanted) tile[tail + lane] = source[tail + lane];
  }

  // How many labels a lane tests, and from which of its row: the last may meet some of its neighbour's again.
  __device__ __forceinline__ int labels_each() const {
    const int labels = static_cast<int>(scan.range.last_label - scan.range.first_label);
    return (labels + (1 << plan.shift) - 1) >> plan.shift;
  }
  __device__ __forceinline__ int own_labels() const {
    const int each = labels_each(), most = static_cast<int>(scan.range.last_label) - each;
    const int lane_of_row = static_cast<int>(threadIdx.x) & ((1 << plan.shift) - 1);
    const int begin = static_cast<int>(scan.range.first_label) + lane_of_row * each;
    return begin < most ? begin : most;
  }

  // Bits of the lanes that found that their row, one of `count` from x on, may have a candidate: see RowScan::next_row.
  // top: the greatest number of the lane's row where one may, for softmax.
  __device__ __forceinline__ unsigned test(const S* x, int count, int labels, T& top) const {
    const DetectOptions<T>& options = scan.options;
    const int columns = static_cast<int>(scan.inputs.num_classes);
    const int own = static_cast<int>(threadIdx.x % 32) >> plan.shift;
    const bool softmax = options.scores == ScoreKind::kSoftmax, inside = own < count;
    if (inside) x += own * columns;  // else the first row, for lanes without one of their own
    T limit = options.skip_below;
    if (softmax) {
      limit = add_rn(static_cast<T>(x[options.first_label > 0 ? 0 : columns - 1]), limit);
    }
    top = greatest_of<T>(x + labels, labels_each());
    const unsigned found = __ballot_sync(kFullWarp, inside && !(top < limit));
    if (found == 0 || !softmax) {
      top = 0;
      return found;
    }
#pragma unroll 1
    for (int offset = 1; offset < 1 << plan.shift; offset *= 2) {
      top = max_number(top, __shfl_xor_sync(kFullWarp, top, offset));
    }
#pragma unroll 1
    for (int c = 0; c < static_cast<int>(scan.range.first_label); ++c) {
      top = max_number(top, static_cast<T>(x[c]));
    }
#pragma unroll 1
    for (int c = static_cast<int>(scan.range.last_label); c < columns; ++c) {
      top = max_number(top, static_cast<T>(x[c]));
    }
    return found;
  }

  // Moves rows of the lanes in `found` to those that wait, as many as there is room for. x, prior: of the test's first
  // row, top: as of test().
  __device__ __forceinline__ void take(const S* x, unsigned prior, T top, unsigned& found,
                                       Waiting& waiting) const {
    const int group = static_cast<int>(threadIdx.x % 32) / kRowLanes;
    const unsigned lanes_of_row = (2u << ((1 << plan.shift) - 1)) - 1u;
    int own = -1;
#pragma unroll 1
    while (found != 0 && waiting.count < kRowsAtOnce) {
      const int next = (__ffs(static_cast<int>(found)) - 1) >> plan.shift;
      found &= ~(lanes_of_row << (next << plan.shift));
      if (group >= waiting.count) own = next;  // without a row of its own: the last one
      ++waiting.count;
    }
    const T own_top = __shfl_sync(kFullWarp, top, (own < 0 ? 0 : own) << plan.shift);
    if (own < 0) return;
    waiting.top = own_top;
    waiting.prior = prior + own;
    waiting.x = x + own * static_cast<int>(scan.inputs.num_classes);
    scan.template hold<kRowLanes>(waiting.x, 1, own_top, waiting.held);
  }

  // All threads: fills the pool with the candidates of the range.
  template <typename P>
  __device__ __forceinline__ void fill(const P& pool) const {
    // Rows of the slice are counted from its first one.
    const int rows = static_cast<int>(scan.range.last_row - scan.range.first_row);
    const int columns = static_cast<int>(scan.inputs.num_classes);
    int next = static_cast<int>(threadIdx.x) / 32 * plan.rows;  // the tile under way, or past all
    const auto address = reinterpret_cast<uintptr_t>(
        scan.inputs.conf.row(scan.range.image, scan.range.first_row + next));
    const int skew = static_cast<int>(address % sizeof(uint4)) / static_cast<int>(sizeof(S));
    uintptr_t source = address - skew * sizeof(S);
    // The vectors of tiles that begin before the first of these rows, or end behind the other, may cross the image's ends.
    const int margin = columns < kElements ? kElements : 1;
    const int64_t behind = scan.inputs.num_priors - scan.range.last_row;
    const int inside_first = scan.range.first_row < kElements ? kElements : 0;
    const int inside_last = behind < margin ? rows + static_cast<int>(behind) - margin : rows;
    int stage = 0;  // where the tile under way is
    const auto load = [&] {
      if (next < rows) {
        const int count = rows - next < plan.rows ? rows - next : plan.rows;
        start(source, reinterpret_cast<uint4*>(tiles + stage), skew + count * columns,
              next >= inside_first && next + count <= inside_last);
      }
      end_copies();
    };
    load();
    const S* x = nullptr;  // the test's first row, of the tile in hand
    int row = 0, end = 0;  // its number, and that of the tile's end
    const int at_once = 32 >> plan.shift, group = static_cast<int>(threadIdx.x % 32) / kRowLanes;
    const unsigned foreground = scan.template foreground<kRowLanes>(0);
    const int labels = own_labels();
    unsigned found = 0;
    T top = 0;
    bool full = false, last = false;  // the rows that wait are to be offered; no more come
    Waiting waiting;
    typename Scan::template Progress<int> at;
    pool.fill([&] {
      while (true) {
        while (!full && found == 0) {
          row += at_once;
          if (row < end) {
            x += at_once * columns;
          } else {
            last = next >= rows;
            if (last) break;
            __syncwarp();  // everyone has read the tile whose place is taken
            row = next;
            end = rows - next < plan.rows ? rows : next + plan.rows;
            x = reinterpret_cast<const S*>(tiles + stage) + skew;
            next += kWarps * plan.rows;
            source += static_cast<uintptr_t>(kWarps * plan.rows * columns) * sizeof(S);
            stage = plan.bytes - stage;
            load();
            wait_copies_but<1>();
            __syncwarp();  // the tile is there for all lanes
          }
          found = test(x, end - row, labels, top);
        }
        if (!full && found != 0) {
          take(x, static_cast<unsigned>(scan.range.first_row) + row, top, found, waiting);
        }
        full = waiting.count == kRowsAtOnce ||
               (waiting.count > 0 && found == 0 && (last || !scan.holds_all()));
        if (full) {
          if (!scan.template row<kRowLanes>(waiting.x, 1, waiting.prior, group < waiting.count,
                                            waiting.top, waiting.held, foreground, at, pool))
            return false;
          waiting.count = 0;
          full = false;
        }
        if (last) return true;
      }
    });
  }
};

}  // namespace ssd_cuda
