// The fused post-process: logits and offsets -> the best detections of every image, padded, without a host sync.
//
//   scan_kernel   grid B x slices, a warp a tile of rows at a time: reads the logits once, writes the best candidates of
//                 each slice of the priors as sortable keys (score, label, prior) to the workspace
//   image_kernel  a CTA an image: deals the keys of its slices, ranks a run of the best, and runs NMS over all classes in
//                 score order, kChunk candidates at a time, until the rows are full. Only these candidates are decoded.
//   soft_nms.cuh  takes their place for soft-NMS
//   values_kernel comes first where thresholds differ by class
//
// Greedy NMS decides a candidate from better ones only, so stopping early is exact. A slice keeps at least its
// kSliceKeep best keys and image_kernel uses keys only up to the worst key of every slice that dropped some; in the rare
// case that they do not fill the rows (they suppress each other, or nothing limits the rows) the CTA scans its image again
// for the next ones, as often as needed: there is no limit on candidates.
//
// Reads B P C logits once, 32 B for a decoded candidate; writes 40 B a row. Workspace: kSliceCapacity keys of 8 B (16 B in
// fp64) for each slice: 3.2 MB on a card of 132 multiprocessors, 64 KB an image from B = 50 on, whatever P and C; and
// 24 B a row where more are wanted than shared memory has room for, 4 B a class where top_k can bind.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "common/cuda/values.cuh"
#include "image_nms.cuh"
#include "slices.cuh"
#include "soft_nms.cuh"
#include "tile_scan.cuh"

namespace ssd_cuda {

constexpr int kScanThreads = 256;
constexpr int kScanBlocks = 3;  // a multiprocessor
constexpr int64_t kFewestSlices = 8;
constexpr int64_t kSmallestSlice = 64;
constexpr int64_t kSharedRows = 512;
constexpr int64_t kTableLists =
    1024;  // from here on comparing lists is less work than clearing the table
static_assert(kSliceCapacity <= SortScratch<kScanThreads>::kCapacity &&
              kImageCapacity <= SortScratch<kImageThreads>::kCapacity);
static_assert(kImageThreads % kChunk == 0, "a candidate of a chunk has whole parts of the block");

// Dynamic shared memory of image_kernel: the keys, a chunk, and the kept rows where they fit.
template <typename T>
constexpr std::size_t kImageBytes =
    kImageCapacity * sizeof(CandidateKey<T>) + sizeof(ChunkState<T>);
template <typename T>
constexpr std::size_t kKeptBytes = sizeof(Vec4<T>) + sizeof(T) + sizeof(unsigned);  // a row

// Rows that the current device can keep in shared memory: kSharedRows but for float64 on sm_75.
template <typename T>
inline int64_t shared_rows() {
  const std::size_t room = dynamic_shared_room(sizeof(PoolState<T>));
  if (room < kImageBytes<T>) return 0;
  const auto rows = static_cast<int64_t>((room - kImageBytes<T>) / kKeptBytes<T>);
  return rows < kSharedRows ? rows : kSharedRows;
}

// Slices of an image: as many as end soonest on the current device, counted in rows; each costs a block that many more.
inline int64_t slices_of(int64_t images, int64_t num_priors) {
  constexpr int64_t kBlockRows = 32;
  const int64_t most = std::min<int64_t>(kMostSlices, ceil_div(num_priors, kSmallestSlice));
  const int64_t at_once = kScanBlocks * multiprocessors();
  int64_t best = most, least = std::numeric_limits<int64_t>::max();
  for (int64_t slices = most; slices >= std::min(kFewestSlices, most) && slices > 0; --slices) {
    const int64_t rounds = ceil_div(images * slices, at_once);
    const int64_t rows = rounds * (ceil_div(num_priors, slices) + kBlockRows);
    if (rows < least) best = slices, least = rows;
  }
  return best;
}

// Words a list of a ListTable of so many rows: one for 32 boxes, and the number of candidates that the list has had.
__host__ __device__ constexpr int table_words(int64_t rows) {
  return kChunkWords + static_cast<int>(ceil_div<int64_t>(rows, 32)) + 1;
}

// Lists of the table of image_kernel whose rows are in shared memory: all, or 0 where there is no room for it.
template <typename T>
inline int64_t table_lists(const DetectOptions<T>& options) {
  const std::size_t room = dynamic_shared_room(sizeof(PoolState<T>));
  const std::size_t taken = kImageBytes<T> + static_cast<std::size_t>(options.rows) * kKeptBytes<T>;
  const auto word = static_cast<std::size_t>(table_words(options.rows)) * sizeof(unsigned);
  const int64_t lists = options.lists();
  const bool fits = room > taken && lists <= static_cast<int64_t>((room - taken) / word);
  return fits && lists <= kTableLists ? lists : 0;
}

// Where everything is in the workspace. With a null workspace it only counts the bytes.
template <typename T>
struct DetectWorkspace {
  int64_t slices, slice_rows;
  CandidateKey<T>* slice_keys;   // [B, slices, kSliceCapacity]
  CandidateKey<T>* slice_worst;  // [B, slices] ~0: the slice kept everything
  unsigned* slice_counts;        // [B, slices]
  KeptList<T> kept;              // [B, rows], unless kept_in_shared
  bool kept_in_shared;
  int64_t table_lists;  // of a ListTable, or 0
  unsigned* seen;       // [B, lists], or null
  SoftScratch<T> soft;
  ClassRule<T>* class_rules;  // [last_label], where thresholds differ
  std::size_t bytes = 0;

  DetectWorkspace(const DetectOptions<T>& options, int64_t images, int64_t num_priors,
                  void* memory) {
    const int64_t per_list = num_priors * (options.class_agnostic ? options.labels() : 1);
    const int64_t lists = options.lists();
    base_ = static_cast<unsigned char*>(memory);
    class_rules = take<ClassRule<T>>(options.classes != nullptr ? options.last_label : 0);
    if (options.is_soft())
      place_soft(options, images * lists, per_list);
    else
      place_hard(options, images, num_priors, options.top_k < per_list ? images * lists : 0);
  }

 private:
  void place_hard(const DetectOptions<T>& options, int64_t images, int64_t num_priors,
                  int64_t seen_lists) {
    slices = slices_of(images, num_priors);
    slice_rows = slices > 0 ? ceil_div(num_priors, slices) : 0;
    slice_keys = take<CandidateKey<T>>(images * slices * kSliceCapacity);
    slice_worst = take<CandidateKey<T>>(images * slices);
    slice_counts = take<unsigned>(images * slices);
    kept_in_shared = options.rows <= shared_rows<T>();
    table_lists = kept_in_shared ? ssd_cuda::table_lists(options) : 0;
    const int64_t kept_rows = kept_in_shared ? 0 : images * options.rows;
    kept.boxes = take<Vec4<T>>(kept_rows);
    kept.areas = take<T>(kept_rows);
    kept.lists = take<unsigned>(kept_rows);
    seen = seen_lists > 0 ? take<unsigned>(seen_lists) : nullptr;
  }

  void place_soft(const DetectOptions<T>& options, int64_t lists, int64_t per_list) {
    soft.keep = options.top_k < per_list ? options.top_k : per_list;
    if (soft.keep < 1) soft.keep = 1;
    const int64_t wanted = (per_list < 2 * soft.keep ? per_list : 2 * soft.keep) + 32;
    soft.capacity = 64;
    while (soft.capacity < wanted) soft.capacity *= 2;
    soft.pool = take<CandidateKey<T>>(lists * soft.capacity);
    soft.chosen = take<CandidateKey<T>>(lists * soft.capacity);
    soft.boxes = take<Vec4<T>>(lists * soft.keep);
    soft.areas = take<T>(lists * soft.keep);
    soft.scores = take<T>(lists * soft.keep);
    soft.counts = take<int64_t>(lists);
  }

  template <typename E>
  E* take(int64_t count) {
    const std::size_t begin = (bytes + 31) / 32 * 32;
    bytes = begin + static_cast<std::size_t>(count) * sizeof(E);
    return base_ == nullptr ? nullptr : reinterpret_cast<E*>(base_ + begin);
  }
  unsigned char* base_;
};

template <typename T>
struct ScanShared {
  CandidateKey<T> keys[kSliceCapacity];
  PoolState<T> state;
  SortScratch<kScanThreads> scratch;
};

// Bytes of shared memory that a block has for its tiles, when kScanBlocks of them share a multiprocessor; where it has
// little, half of them.
template <typename T>
inline std::size_t tile_room() {
  constexpr std::size_t kReserved = 1024;  // of each block, by the driver
  const std::size_t all = dynamic_shared_room(0) + kReserved;
  const std::size_t one = all / (all < 128 * 1024 ? 2 : kScanBlocks);
  return one > kReserved + sizeof(ScanShared<T>) ? one - kReserved - sizeof(ScanShared<T>) : 0;
}

template <typename T, typename S, bool kTiles>
__global__ void __launch_bounds__(kScanThreads, sizeof(T) == 8 ? 1 : kScanBlocks - kBlocksLess)
    scan_kernel(DetectOptions<T> options, DetectInputs<T, S> inputs, DetectWorkspace<T> workspace,
                TilePlan plan) {
  after_previous_kernel();
  SSD_DYNAMIC_SHARED(unsigned char, tiles);
  __shared__ ScanShared<T> shared;
  PoolState<T>& state = shared.state;
  const Pool<T, kScanThreads> pool{shared.keys, kSliceCapacity, kSliceKeep, &state,
                                   &shared.scratch};
  if (threadIdx.x == 0) pool.reset();
  __syncthreads();
  const auto slices = static_cast<unsigned>(workspace.slices);
  const int64_t begin = blockIdx.x % slices * workspace.slice_rows;
  const int64_t end = begin + workspace.slice_rows;
  const ScanRange<T> range{.image = blockIdx.x / slices,
                           .first_row = begin,
                           .last_row = end < inputs.num_priors ? end : inputs.num_priors,
                           .first_label = options.first_label,
                           .last_label = options.last_label,
                           .after_any = false,
                           .after = 0,
                           .seen = nullptr};
  const RowScan<T, S> scan{options, inputs, range};
  if constexpr (kTiles) {
    unsigned char* own = tiles + threadIdx.x / 32 * kTileStages * plan.bytes;
    const S* image = inputs.conf.row(range.image, 0);
    const S* image_end = image + inputs.num_priors * inputs.num_classes;
    TileScan<T, S, kScanThreads / 32>{scan, own, plan, reinterpret_cast<uintptr_t>(image),
                                      reinterpret_cast<uintptr_t>(image_end)}
        .fill(pool);
  } else {
    scan.fill(pool);
  }
  const int64_t row = blockIdx.x;
  for (unsigned i = threadIdx.x; i < state.count; i += kScanThreads) {
    workspace.slice_keys[row * kSliceCapacity + i] = shared.keys[i];
  }
  if (threadIdx.x == 0) {
    workspace.slice_counts[row] = state.count;
    workspace.slice_worst[row] = state.worst;
  }
}

// Candidates of the next chunk: no more than about twice the rows still wanted, as the work of a chunk is quadratic.
__device__ __forceinline__ int chunk_size(int64_t wanted) {
  return wanted >= kChunk / 2 ? kChunk : static_cast<int>(ceil_div<int64_t>(wanted, 32)) * 64;
}

// All threads: takes the keys of the pool, which they hold, in order, until the rows are full. Few images look at more
// candidates than the first run has, so no other is ranked before it is asked for.
template <typename Nms, typename P>
__device__ __forceinline__ void take_best(const Nms& nms, const P& pool, int count,
                                          typename P::Key (&held)[kSortKeys], int64_t rows,
                                          int64_t& num_before, int64_t& num_kept) {
  for (int begin = 0, end; begin < count && num_kept < rows; begin = end) {
    SortBuckets buckets{};
    const bool dealt = pool.deal(begin, count, held, buckets);
    end = count;
    for (int i = begin, size; i < end && num_kept < rows; i += size) {
      const auto fetched = nms.fetch(pool.keys + i, count - i);
      DealtRun run{};
      if (dealt && i == begin) {
        run = pool.first_run(begin, count, buckets);
        end = begin + static_cast<int>(run.count);
      }
      size = chunk_size(rows - num_kept);
      if (size > end - i) size = end - i;
      num_kept = nms.add(pool.keys + i, size, fetched, run, pool.scratch, num_before, num_kept);
      num_before += size;
    }
    if (end < count && num_kept < rows) {
      read_keys<kImageThreads>(pool.keys + end, count - end, held);
    }
  }
}

template <typename T, typename S, bool kOwnRules>
__global__ void __launch_bounds__(kImageThreads, 1)
    image_kernel(DetectOptions<T> options, DetectInputs<T, S> inputs, DetectOutputs<T> outputs,
                 DetectWorkspace<T> workspace) {
  using Key = CandidateKey<T>;
  SSD_DYNAMIC_SHARED(unsigned char, memory);
  __shared__ PoolState<T> state;
  const int64_t image = blockIdx.x, rows = options.rows, lists = options.lists();
  Key* keys = reinterpret_cast<Key*>(memory);
  auto* chunk = reinterpret_cast<ChunkState<T>*>(keys + kImageCapacity);
  KeptList<T> kept{workspace.kept.boxes + image * rows, workspace.kept.areas + image * rows,
                   workspace.kept.lists + image * rows};
  // Of their own, so that what is known of their memory is not lost where `kept` may lie in either.
  auto* const shared_boxes = reinterpret_cast<Vec4<T>*>(chunk + 1);
  auto* const shared_areas = reinterpret_cast<T*>(shared_boxes + rows);
  auto* const shared_lists = reinterpret_cast<unsigned*>(shared_areas + rows);
  if (workspace.kept_in_shared) kept = {shared_boxes, shared_areas, shared_lists};
  ListTable table{static_cast<int>(workspace.table_lists), nullptr, nullptr};
  unsigned* seen = workspace.seen ? workspace.seen + image * lists : nullptr;
  if (table.lists > 0) {
    table.chunk = shared_lists + rows;
    table.kept = table.chunk + kChunkWords * table.lists;
    const int words = table_words(rows) * table.lists;
    for (int i = threadIdx.x; i < words; i += kImageThreads) table.chunk[i] = 0;
    if (seen) seen = table.chunk + words - table.lists;
  }
  const int64_t first_slice = image * workspace.slices;
  const StoredSlices<T> slices{
      workspace.slice_keys + first_slice * kSliceCapacity, workspace.slice_worst + first_slice,
      workspace.slice_counts + first_slice, static_cast<int>(workspace.slices)};
  // A chunk and a sort are never under way at once.
  auto* scratch = reinterpret_cast<SortScratch<kImageThreads>*>(chunk);
  static_assert(sizeof *scratch <= sizeof *chunk && alignof(decltype(*scratch)) <= 16);
  auto* places = reinterpret_cast<SlicePlaces*>(scratch + 1);  // read before the first chunk
  static_assert(sizeof *scratch + sizeof *places <= sizeof *chunk &&
                sizeof *scratch % alignof(SlicePlaces) == 0);
  const Pool<T, kImageThreads> pool{keys, kImageCapacity, kImageKeep, &state, scratch};
  const ImageNms<T, S, kOwnRules> nms{options, inputs, outputs, image, kept, seen, chunk, table};
  ScanRange<T> range{.image = image,
                     .first_row = 0,
                     .last_row = inputs.num_priors,
                     .first_label = options.first_label,
                     .last_label = options.last_label,
                     .after_any = false,
                     .after = 0,
                     .seen = seen};
  int64_t num_kept = 0, num_before = 0;
  Key bound;  // every candidate up to here is stored
  for (bool stored = true, first = true;; first = false) {
    if (threadIdx.x == 0) pool.reset();
    if (first) {
      after_previous_kernel();  // by then shared memory is ready, and all that does not change in the loop
      for (int64_t i = threadIdx.x; table.lists == 0 && seen && i < lists; i += kImageThreads) {
        seen[i] = 0;
      }
      bound = slices.measure(places);
    }
    __syncthreads();
    Key held[kSortKeys];
    unsigned count;
    if (first && slices.fit(places, bound)) {
      count = slices.copy(places, held);
    } else {
      if (stored)
        slices.fill(range, bound, pool);
      else
        RowScan<T, S>{options, inputs, range}.fill(pool);
      count = state.count;
      read_keys<kImageThreads>(keys, count, held);
    }
    take_best(nms, pool, static_cast<int>(count), held, rows, num_before, num_kept);
    const bool cut = state.cut != 0;
    const Key worst = state.worst;
    if (num_kept == rows || (!cut && (!stored || bound == ~Key{0}))) break;
    range.after = cut ? worst : bound;
    range.after_any = true;
    stored = stored && cut;
    __syncthreads();  // the state has been read
  }
#pragma unroll 1  // unrolled it is 2 KB of code that a full image jumps over, to code that is not there yet
  for (int64_t k = num_kept + threadIdx.x; k < rows; k += kImageThreads) {
    write_padding(options, outputs, image, k);
  }
  if (threadIdx.x == 0) outputs.counts[image] = num_kept;
}

// workspace: detect_workspace_bytes() bytes, 32-byte aligned.
template <typename T>
inline std::size_t detect_workspace_bytes(const DetectOptions<T>& options, int64_t images,
                                          int64_t num_priors) {
  return DetectWorkspace<T>(options, images, num_priors, nullptr).bytes;
}

template <typename T, typename S>
inline cudaError_t launch_detect(DetectOptions<T> options, const DetectInputs<T, S>& inputs,
                                 const DetectOutputs<T>& outputs, void* memory,
                                 cudaStream_t stream) {
  DetectWorkspace<T> workspace(options, inputs.images, inputs.num_priors, memory);
  if (options.classes != nullptr) {
    const cudaError_t error =
        put_values(options.classes, options.last_label, workspace.class_rules, stream);
    if (error != cudaSuccess) return error;
    options.classes = workspace.class_rules;
  }
  const auto blocks = [](int64_t n) { return dim3(static_cast<unsigned>(n)); };
  if (options.is_soft()) {
    const int64_t lists = options.lists(), items = lists * workspace.soft.keep;
    const int64_t most = items > options.rows ? items : options.rows;
    const int64_t per_image = most > 0 ? ceil_div<int64_t>(most, kRankBlock) : 1;  // writes counts
    const cudaError_t error =
        launch(soft_nms_kernel<T, S>, blocks(inputs.images * lists), dim3(kSoftThreads), 0, stream,
               options, inputs, workspace.soft);
    if (error != cudaSuccess) return error;
    return launch(rank_kernel<T, S>, blocks(inputs.images * per_image), dim3(kRankBlock), 0, stream,
                  options, inputs, outputs, workspace.soft, per_image);
  }
  if (options.labels() <= 0) workspace.slices = 0;
  const TilePlan plan = plan_tiles(inputs, workspace.slice_rows, kScanThreads / 32, tile_room<T>());
  const cudaError_t error =
      launch(plan.rows > 0 ? scan_kernel<T, S, true> : scan_kernel<T, S, false>,
             blocks(inputs.images * workspace.slices), dim3(kScanThreads),
             static_cast<std::size_t>(plan.bytes) * kTileStages * (kScanThreads / 32), stream,
             options, inputs, workspace, plan);
  if (error != cudaSuccess) return error;
  const auto kept_rows = static_cast<std::size_t>(workspace.kept_in_shared ? options.rows : 0);
  const auto words = static_cast<std::size_t>(table_words(options.rows) * workspace.table_lists);
  return launch(options.rules_differ ? image_kernel<T, S, true> : image_kernel<T, S, false>,
                blocks(inputs.images), dim3(kImageThreads),
                kImageBytes<T> + kept_rows * kKeptBytes<T> + words * sizeof(unsigned), stream,
                options, inputs, outputs, workspace);
}

}  // namespace ssd_cuda
