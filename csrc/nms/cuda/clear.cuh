// Which boxes of a panel a kept box of an earlier panel removes; the others are listed, and filed in their open bin.
//
// A block has 8 boxes, or 16 where the panel has many. First each looks at its own bin, by the lanes that a box has there and
// without the reckoning of cells: of 100,000 boxes in a crowd 60 to 75% end there. Where the last panel lost few boxes that
// is left out: two loads in a row for nothing. The others are listed in shared memory, so that no lane idles for them, and
// search every cell in reach at once, 16 lanes a box, or 8 where more than half of 16 are left.
//
// Memory: 4 T + 5 B a box read; 4 T a kept box tested, 8 B a cell, from L2; 4 T + 13 B a listed box written.
#pragma once

#include "search.cuh"

namespace ssd_cuda {

constexpr int kNmsClearBlock = 128;  // threads
// Boxes of a block: no team has two.
constexpr int kNmsClearBoxes = kNmsClearBlock / kNmsClearLanes;
constexpr int kNmsClearManyBoxes = kNmsClearBlock / kNmsClearManyLanes;
constexpr int kNmsOwnTests = 32;  // kept boxes of its own bin that a box is tested against first

// Blocks of a multiprocessor that registers must leave room for: as many as fit without spills, of 8 and of 16 boxes. float64
// needs twice the registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kNmsClearFloats = 8, kNmsClearManyFloats = 7;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1200
constexpr int kNmsClearFloats = 9, kNmsClearManyFloats = 7;
#else
constexpr int kNmsClearFloats = 9, kNmsClearManyFloats = 8;
#endif
template <int kBoxes, typename T>
constexpr int kNmsClearing = sizeof(T) != 4             ? 3
                             : kBoxes == kNmsClearBoxes ? kNmsClearFloats
                                                        : kNmsClearManyFloats;

// What the boxes of a block of nms_clear_kernel are, as places in their part of the panel: to be searched for, kept so far.
struct NmsClearBlock {
  int num_left, num_listed;
  uint8_t left[kNmsClearManyBoxes], listed[kNmsClearManyBoxes];
};

// Adds the numbers of the lanes where `add` to a list in shared memory; called by a warp.
static __device__ __forceinline__ void nms_append(bool add, int number, uint8_t* list, int* count) {
  const unsigned lanes = __ballot_sync(kFullWarp, add), lane = threadIdx.x % 32;
  int at = 0;
  if (lane == 0 && lanes != 0) at = atomicAdd(count, __popc(lanes));
  at = __shfl_sync(kFullWarp, at, 0);
  if (add) list[at + __popc(lanes & ((1u << lane) - 1))] = static_cast<uint8_t>(number);
}

// Whether a kept box of its own bin removes box p: of the first of them, dealt to kLanes lanes of the warp, and without the
// reckoning of cells. Most boxes of a crowd end here.
template <int kLanes, typename T>
__device__ bool nms_removed_at_home(bool active, const NmsArgs<T>& args, int p) {
  const NmsQuery<T> query(args, p);
  const int32_t home = args.homes[p];
  bool removed = false;
  // All three in one, so that the box and its bin's number are on their way together.
  if (active & (home >= 0) & (query.area > 0)) {
    const NmsBin bin = args.kept()[home];
    const int size = min(bin.size, kNmsOwnTests);
    for (int i = NmsTeam<kLanes>::lane(); i < size && !removed; i += kLanes) {
      removed = query.overlaps(args, args.kept_boxes[bin.start + i]) &&
                query.of_class(args, args.kept_ranks + bin.start + i);
    }
  }
  return NmsTeam<kLanes>::any(removed);
}

// Whether a quarter of the last panel's boxes and more were removed by kept boxes of those before it.
template <typename T>
__device__ bool nms_many_go(const NmsArgs<T>& args, const NmsPanel& panel) {
  const auto stayed = static_cast<int64_t>(args.counters().listed[1 - panel.parity]);
  return stayed * 4 <= (panel.begin - panel.last_begin) * 3;
}

// Whether a kept box removes box p.
template <int kLanes, typename T>
__device__ bool nms_removed(bool active, const NmsArgs<T>& args, int p, int64_t begin) {
  using Team = NmsTeam<kLanes>;
  const NmsQuery<T> query(args, p);
  return nms_search<kLanes>(
      active, args, query, args.kept(), 0, begin,
      [&](int slot) { return NmsSlotBox<T>{args.kept_boxes[slot], slot}; },
      [&](bool valid, const NmsSlotBox<T>& kept) {
        return Team::any(valid && query.overlaps(args, kept.box) &&
                         query.of_class(args, args.kept_ranks + kept.at));
      },
      [&](bool valid, int64_t j) {
        return Team::any(valid && args.state(j) == NmsState::kKept && query.removed_by(args, j));
      });
}

// Searches for the boxes that are left, kLanes lanes each, and lists those that nothing removes. first: the rank of the
// block's first box.
template <int kLanes, typename T>
__device__ void nms_clear_left(const NmsArgs<T>& args, const NmsPanel& panel, int first,
                               NmsClearBlock& boxes) {
  const int t = static_cast<int>(threadIdx.x), num_left = boxes.num_left;
  if (t / 32 * (32 / kLanes) >= num_left) return;  // whole warps
  const int team = t / kLanes;
  const bool active = team < num_left;
  const int i = boxes.left[min(team, num_left - 1)];
  const bool removed = nms_removed<kLanes>(active, args, first + i, panel.begin);
  const bool mine = active && NmsTeam<kLanes>::lane() == 0;
  if (mine && removed) args.set_state(first + i, NmsState::kRemoved);
  nms_append(mine && !removed, i, boxes.listed, &boxes.num_listed);
}

// Lists the boxes of the block that nothing has removed and files them in their open bins. Called by one warp, which sees
// boxes.listed.
template <typename T>
__device__ void nms_list_open(const NmsArgs<T>& args, const NmsPanel& panel, int first,
                              const NmsClearBlock& boxes) {
  static_assert(kNmsClearManyBoxes <= 32);
  const int lane = static_cast<int>(threadIdx.x) % 32, num_listed = boxes.num_listed;
  if (num_listed == 0) return;
  // Both additions are on their way together.
  unsigned at = 0;
  if (lane == 0) {
    at = atomicAdd(args.counters().listed + panel.parity, static_cast<unsigned>(num_listed));
  }
  const bool mine = lane < num_listed;
  const int p = first + boxes.listed[mine ? lane : 0];
  const int32_t home = mine ? args.homes[p] : -1;
  if (home >= 0) {
    NmsBin* const bin = args.open_bins(panel.parity) + home;
    const int slot = bin->start + atomicAdd(&bin->size, 1);
    args.open_ranks[slot] = p;
    args.open_boxes[slot] = args.box(p);
  }
  at = __shfl_sync(kFullWarp, at, 0);
  if (mine) args.list_of(panel.parity)[at + lane] = p;
}

// Empties the open bins of the boxes that the last panel had listed.
template <typename T>
__device__ void nms_empty_bins(const NmsArgs<T>& args, int parity) {
  const auto count = static_cast<int64_t>(args.counters().listed[parity]);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNmsClearBlock + threadIdx.x;
  for (int64_t i = first; i < count; i += static_cast<int64_t>(gridDim.x) * kNmsClearBlock) {
    const int32_t home = args.homes[args.list_of(parity)[i]];
    if (home >= 0) store_relaxed(&args.open_bins(parity)[home].size, 0);
  }
}

template <int kBoxes, typename T>
__global__ void __launch_bounds__(kNmsClearBlock, kNmsClearing<kBoxes, T>)
    nms_clear_kernel(NmsArgs<T> args, NmsPanel panel) {
  after_previous_kernel();
  __shared__ NmsClearBlock boxes;
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) boxes.num_left = boxes.num_listed = 0;
  nms_empty_bins(args, 1 - panel.parity);
  __syncthreads();
  const int begin = static_cast<int>(panel.begin), size = static_cast<int>(panel.end - panel.begin);
  const int before = static_cast<int>(blockIdx.x) * kBoxes, first = begin + before;
  {
    constexpr int kLanes = kNmsClearBlock / kBoxes;
    const int i = t / kLanes;
    const int p = begin + min(before + i, size - 1);
    const bool inert = args.state(p) == NmsState::kKept;
    const bool active = (before + i < size) & !inert;
    const bool removed = nms_many_go(args, panel) && nms_removed_at_home<kLanes>(active, args, p);
    const bool mine = active && NmsTeam<kLanes>::lane() == 0;
    if (mine && removed) args.set_state(p, NmsState::kRemoved);
    nms_append(mine && !removed, i, boxes.left, &boxes.num_left);
  }
  __syncthreads();
  if (kBoxes == kNmsClearBoxes || boxes.num_left <= kNmsClearBoxes) {
    nms_clear_left<kNmsClearLanes>(args, panel, first, boxes);
  } else {
    nms_clear_left<kNmsClearBlock / kBoxes>(args, panel, first, boxes);
  }
  __syncthreads();
  if (t < 32) nms_list_open(args, panel, first, boxes);
}

template <typename T>
inline cudaError_t launch_nms_clear(const NmsArgs<T>& args, const NmsPanel& panel,
                                    cudaStream_t stream) {
  const int64_t size = panel.end - panel.begin;
  const bool many = size > nms_few_boxes(args.plan, kNmsClearLanes);
  const int boxes = many ? kNmsClearManyBoxes : kNmsClearBoxes;
  return launch<Start::kAfter>(
      many ? nms_clear_kernel<kNmsClearManyBoxes, T> : nms_clear_kernel<kNmsClearBoxes, T>,
      nms_blocks(size, boxes), dim3(kNmsClearBlock), 0, stream, args, panel);
}

}  // namespace ssd_cuda
