// The scan of rows that lie next to each other: a warp loads a tile of them in 16-byte vectors, whatever the
// alignment of a row, and tests and scores them from shared memory. kTileBytes a warp are in flight at a time.
#pragma once

#include "scan.cuh"

namespace ssd_cuda {

constexpr int kTileBytes = 2048;
constexpr int kTileVectors = kTileBytes / (16 * 32);  // a lane

// Rows of a tile, when `warps` warps share slice_rows rows; 0: the rows do not lie so, or are too long.
template <typename T, typename S>
inline int64_t tile_rows(const DetectInputs<T, S>& inputs, int64_t slice_rows, int64_t warps) {
  const int64_t columns = inputs.num_classes, bytes = columns * static_cast<int64_t>(sizeof(S));
  const bool together = inputs.conf.column_stride == 1 && inputs.conf.row_stride == columns;
  const int64_t most =
      columns > 0 ? (kTileBytes - 16) / bytes : 0;  // a tile begins anywhere in a vector
  if (!together || most == 0 || slice_rows == 0) return 0;
  return ceil_div(slice_rows,
                  warps * ceil_div(slice_rows, warps * most));  // the same for all warps
}

template <typename T, typename S>
struct TileScan {
  static constexpr int kElements = 16 / sizeof(S);  // of a vector
  static constexpr int kTileElements = kTileBytes / sizeof(S);

  RowScan<T, S> scan;
  S* tile;       // [kTileBytes / sizeof(S)] of this warp, shared memory
  int64_t rows;  // of a tile

  // Copies `count` rows from `first` on; returns where in the tile they begin. The two vectors that may cross an end
  // of the image are read element by element.
  __device__ __forceinline__ int load(int64_t first, int count) const {
    const int64_t columns = scan.inputs.num_classes, begin = first * columns;
    const S* image = scan.inputs.conf.row(scan.range.image, 0);
    const int skew = static_cast<int>(reinterpret_cast<uintptr_t>(image + begin) % 16 / sizeof(S));
    const int wanted = skew + count * static_cast<int>(columns), lane = threadIdx.x % 32;
    const int64_t room = scan.inputs.num_priors * columns - begin + skew;
    const int low = begin < skew ? kElements : 0;  // whole vectors lie in [low, high)
    const int high =
        static_cast<int>(room < kTileElements ? room / kElements * kElements : kTileElements);
    const S* source = image + begin - skew;
    uint4 vectors[kTileVectors];
#pragma unroll
    for (int u = 0; u < kTileVectors; ++u) {
      const int at = (lane + 32 * u) * kElements;
      if (at >= low && at < high && at < wanted) {
        vectors[u] = *reinterpret_cast<const uint4*>(source + at);
      }
    }
#pragma unroll
    for (int u = 0; u < kTileVectors; ++u) {
      const int at = (lane + 32 * u) * kElements;
      if (at >= low && at < high && at < wanted) *reinterpret_cast<uint4*>(tile + at) = vectors[u];
    }
    if (low > 0 && lane >= skew && lane < kElements && lane < wanted) tile[lane] = source[lane];
    if (high >= low && high + lane < wanted) tile[high + lane] = source[high + lane];
    __syncwarp();
    return skew;
  }

  // The first row of the tile from `row` on that may have a candidate, or count. x: the first row. Four rows at a time,
  // eight lanes a row; see RowScan::next_row.
  __device__ __forceinline__ int next_row(const S* x, int row, int count) const {
    constexpr int kLanes = 8;
    const DetectOptions<T>& options = scan.options;
    if (!(options.skip_below > -INFINITY)) return row;
    const int columns = static_cast<int>(scan.inputs.num_classes), lane = threadIdx.x % kLanes;
    const int own = static_cast<int>(scan.range.first_label) + lane;
    const int background = options.first_label > 0 ? 0 : columns - 1;
    for (row += threadIdx.x % 32 / kLanes;; row += 32 / kLanes) {
      bool below = true;
      if (row < count) {
        const S* next = x + row * columns;
        T limit = options.skip_below, greatest = -INFINITY;
        if (options.scores == ScoreKind::kSoftmax) {
          limit = add_rn(static_cast<T>(next[background]), limit);
        }
        int left = static_cast<int>(scan.range.last_label) - own;
        next += own;
#pragma unroll 1
        for (; left > 3 * kLanes; left -= 4 * kLanes, next += 4 * kLanes) {
#pragma unroll
          for (int u = 0; u < 4; ++u) greatest = max(greatest, static_cast<T>(next[u * kLanes]));
        }
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          if (u * kLanes < left) greatest = max(greatest, static_cast<T>(next[u * kLanes]));
        }
        below = greatest < limit;
      }
      const unsigned found = __ballot_sync(kFullWarp, !below);
      const int first = row - static_cast<int>(threadIdx.x % 32 / kLanes);
      if (found != 0) return first + (__ffs(static_cast<int>(found)) - 1) / kLanes;
      if (first + 32 / kLanes >= count) return count;
    }
  }

  // All threads: fills the pool with the candidates of the range.
  template <typename P>
  __device__ __forceinline__ void fill(const P& pool) const {
    const int64_t last = scan.range.last_row;
    const int columns = static_cast<int>(scan.inputs.num_classes);
    int64_t first = scan.range.first_row + threadIdx.x / 32 * rows;
    int row = 0, count = 0, done = 0;
    const S* x = tile;  // the first row
    pool.fill([&] {
      while (true) {
        for (; row < count; ++row) {
          if (done == 0) row = next_row(x, row, count);
          if (row == count) break;
          if (!scan.row(x + row * columns, 1, first + row, done, pool)) return false;
        }
        if (count > 0) first += blockDim.x / 32 * rows;
        row = count = 0;
        if (first >= last) return true;
        __syncwarp();  // everyone has read the tile
        count = static_cast<int>(last - first < rows ? last - first : rows);
        x = tile + load(first, count);
      }
    });
  }
};

}  // namespace ssd_cuda
