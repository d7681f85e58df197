// The scan of rows that lie next to each other, a warp a tile of them: copied to shared memory in 16-byte vectors, whatever
// the alignment of a row, while the tile before is scanned. A test for the rows of a whole tile at once, some lanes a
// row, leaves out those without a candidate; the others get kRowLanes lanes each.
#pragma once

#include "greatest.cuh"
#include "scan.cuh"

namespace ssd_cuda {

constexpr int kRowLanes = 16;         // of a row with a candidate: 8, 16 or 32
constexpr int kTileStages = 2;        // of a warp: one is scanned, the next is under way
constexpr int kMostTileBytes = 2624;  // 8 rows of 81 floats, beginning anywhere in a vector
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
  const int64_t most = columns > 0 && tile > 16 ? (tile - 16) / bytes : 0;
  if (!together || most == 0 || slice_rows == 0) return {0, 0, 0};
  // The same for all warps.
  const int64_t rows = ceil_div(slice_rows, warps * ceil_div(slice_rows, warps * most));
  int shift = 5;
  while (shift > 0 && rows << shift > 32) --shift;
  return {static_cast<int>(rows), shift, static_cast<int>(tile)};
}

template <typename T, typename S>
struct TileScan {
  static constexpr int kElements = 16 / sizeof(S);  // of a vector

  RowScan<T, S> scan;
  unsigned char* tiles;  // [kTileStages][plan.bytes] of this warp, shared memory
  TilePlan plan;
  uintptr_t image, image_end;  // where its rows begin and end

  // A tile under way, or in hand.
  struct Tile {
    const S* rows;  // where the first one begins
    int count;
    unsigned prior;  // the first one's
  };

  // Begins to copy `count` rows that begin at x.
  __device__ __forceinline__ Tile start(const S* x, int count, unsigned prior, int stage) const {
    constexpr uintptr_t kBytes = 16;
    const auto address = reinterpret_cast<uintptr_t>(x), source = address & ~(kBytes - 1);
    const int skew = static_cast<int>(address - source) / static_cast<int>(sizeof(S));
    const int wanted = skew + count * static_cast<int>(scan.inputs.num_classes);
    const int lane = static_cast<int>(threadIdx.x % 32);
    unsigned char* place = tiles + stage * plan.bytes;
    int low = 0, high = ceil_div(wanted, kElements);  // whole vectors lie in [low, high)
    if (source < image || source + static_cast<unsigned>(high) * kBytes > image_end) {
      low = source < image ? 1 : 0;
      if ((image_end - source) / kBytes < static_cast<uintptr_t>(high)) --high;
      if (high < low) high = low;
      copy_ends(reinterpret_cast<const S*>(source), reinterpret_cast<S*>(place),
                low > 0 ? skew : kElements, high * kElements, wanted);
    }
    uint4* to = reinterpret_cast<uint4*>(place) + lane;
    const uint4* from = reinterpret_cast<const uint4*>(source) + lane;
    const int mine = high - lane;
#pragma unroll
    for (int u = 0; u < kTileVectors; ++u) {
      if (mine > 32 * u && (u > 0 || lane >= low)) {
        copy_async(to + 32 * u, from + 32 * u);
      }
    }
    return {reinterpret_cast<const S*>(place) + skew, count, prior};
  }

  // The elements of the two vectors that may cross an end of the image: [head, a vector) and [tail, wanted).
  __device__ __forceinline__ static void copy_ends(const S* source, S* tile, int head, int tail,
                                                   int wanted) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (lane >= head && lane < kElements && lane < wanted) tile[lane] = source[lane];
    if (tail + lane < wanted) tile[tail + lane] = source[tail + lane];
  }

  // Bits of the lanes that found that their row, one of 32 >> shift from `row` on, may have a candidate: see
  // RowScan::next_row. top: the greatest number of the lane's row where one may, for softmax.
  __device__ __forceinline__ unsigned test(const Tile& tile, int row, T& top) const {
    const DetectOptions<T>& options = scan.options;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int columns = static_cast<int>(scan.inputs.num_classes);
    row += lane >> plan.shift;
    const bool softmax = options.scores == ScoreKind::kSoftmax, inside = row < tile.count;
    const S* x = tile.rows + (inside ? row : 0) * columns;
    T limit = options.skip_below;
    if (softmax) {
      limit = add_rn(static_cast<T>(x[options.first_label > 0 ? 0 : columns - 1]), limit);
    }
    // The lanes share the labels; the last may meet some of its neighbour's again.
    const int labels = static_cast<int>(scan.range.last_label - scan.range.first_label);
    const int each = (labels + (1 << plan.shift) - 1) >> plan.shift;
    int begin = (lane & ((1 << plan.shift) - 1)) * each;
    if (begin > labels - each) begin = labels - each;
    top = greatest_of<T>(x + scan.range.first_label + begin, each);
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

  // Offers the rows of the lanes in `found`, 32 / kRowLanes at a time, and takes them out of it. top: as of test().
  template <typename P>
  __device__ __forceinline__ bool offer(const Tile& tile, int row, T top, unsigned columns,
                                        unsigned& found,
                                        typename RowScan<T, S>::template Progress<int>& at,
                                        const P& pool) const {
    const int group = static_cast<int>(threadIdx.x % 32) / kRowLanes;
    const unsigned lanes_of_row = (2u << ((1 << plan.shift) - 1)) - 1u;
    while (found != 0) {
      unsigned left = found;
      int own = 0;
      bool valid = false;
#pragma unroll
      for (int g = 0; g < 32 / kRowLanes; ++g) {
        if (left == 0) break;
        const int next = (__ffs(static_cast<int>(left)) - 1) >> plan.shift;
        left &= ~(lanes_of_row << (next << plan.shift));
        if (g == 0 || g == group) own = next;  // without a row of its own: that of the first
        valid = valid || g == group;
      }
      const T own_top = __shfl_sync(kFullWarp, top, own << plan.shift);
      own += row;
      const S* x = tile.rows + own * static_cast<int>(scan.inputs.num_classes);
      if (!scan.template row<kRowLanes>(x, 1, tile.prior + own, valid, own_top, columns, at, pool))
        return false;
      found = left;
    }
    return true;
  }

  // All threads: fills the pool with the candidates of the range.
  template <typename P>
  __device__ __forceinline__ void fill(const P& pool) const {
    // Rows of the slice are counted from its first one.
    const int warps = blockDim.x / 32, stride = warps * plan.rows;
    const int rows = static_cast<int>(scan.range.last_row - scan.range.first_row);
    const auto prior = static_cast<unsigned>(scan.range.first_row);
    const int64_t step = stride * scan.inputs.num_classes;
    int next = threadIdx.x / 32 * plan.rows;
    const S* x = scan.inputs.conf.row(scan.range.image, scan.range.first_row + next);
    Tile coming{}, tile{};
    int stage = 0, row = 0;
    const unsigned columns = scan.template foreground<kRowLanes>(0);
    unsigned found = 0;
    T top = 0;
    typename RowScan<T, S>::template Progress<int> at;
    const auto load = [&] {
      if (next < rows)
        coming = start(x, rows - next < plan.rows ? rows - next : plan.rows, prior + next, stage);
      end_copies();
    };
    load();
    pool.fill([&] {
      while (true) {
        if (!offer(tile, row, top, columns, found, at, pool)) return false;
        row += 32 >> plan.shift;
        if (row >= tile.count) {
          if (next >= rows) return true;
          __syncwarp();  // everyone has read the tile whose place is taken
          tile = coming;
          next += stride;
          x += step;
          stage = 1 - stage;
          load();
          wait_copies_but<1>();
          __syncwarp();  // the tile is there for all lanes
          row = 0;
        }
        found = test(tile, row, top);
      }
    });
  }
};

}  // namespace ssd_cuda
