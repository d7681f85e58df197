// Greedy suppression of N boxes in score order (equal scores: index ascending), classes apart.
//
//   tile      the keys of the scores, sorted in tiles (sort.cuh); how many boxes each bin will get, the levels that there are
//   merge     sorted tiles become longer ones; none up to 16384 boxes
//   gather    the last merge, and boxes in score order; the odd boxes; each bin gets its slots
//   decide    the first panel of ranks: a warp a box looks at all better boxes of the panel
//   then for each later panel [begin, end), each 4 times the last, up to 32768:
//   clear     8 lanes a box: removed if a kept box removes it, else listed in its open bin
//   decide    8 lanes a box: finds the earlier boxes of the panel that would remove it (suppressors.cuh) and looks at their
//             states until they decide it; kept boxes are filed in their bin. The last block decides what is left (resolve.cuh)
//   compact   kept indices in score order (compact.cuh)
//
// Every decision is the greedy one, whatever the order of threads and blocks: the searches test every pair that can matter
// (nms/nms_grid.h has the proof) with the exact rule, and the greedy answer is unique. No thread waits for another.
//
// A bin is the boxes of the cells of one hash. Its boxes are counted before any is filed, so its slots lie side by side: a
// search reads kept boxes, 16 bytes each, lane by lane.
//
// Work: a box looks into about 28 cells at t = 0.5. Memory: O(N), at most 113 bytes a box and 4.5 MB. Worst cases: boxes for
// which the grid's argument fails (nms::Kind::kOdd, or the rule IoU >= 0) are tested against all, N^2 / 2 pairs; a threshold
// that lets every box of one cell live is N^2 / 2 pairs as well; a chain in which each box removes the next one is left to
// the last block of its panel, which settles 32 boxes a round at least.
// Two launches a panel, their number known on the host: no synchronisation.
#pragma once

#include "compact.cuh"
#include "resolve.cuh"
#include "sort.cuh"

namespace ssd_cuda {

// What the boxes in score order are made of.
template <typename S>
struct NmsInput {
  const S* boxes;       // [N, 4]
  const int64_t* idxs;  // [N], or null where NmsArgs has no classes

  template <typename T>
  __device__ Vec4<T> box(int64_t i) const {
    const S* numbers = boxes + 4 * i;
    return {static_cast<T>(numbers[0]), static_cast<T>(numbers[1]), static_cast<T>(numbers[2]),
            static_cast<T>(numbers[3])};
  }
};

// The bin of a normal box.
template <typename T>
__device__ int32_t nms_home(const NmsArgs<T>& args, const nms::Shape& shape, int64_t cls) {
  return static_cast<int32_t>(args.grid.home_hash(shape, cls) & args.bin_mask());
}

// Counts the box in its bin and marks its level in those of the block.
template <typename T>
__device__ void nms_count_box(const NmsArgs<T>& args, Vec4<T> box, int64_t cls, uint32_t* levels) {
  if (args.kind(box, args.rule.area(box)) != nms::Kind::kNormal) return;
  const nms::Shape shape = args.grid.shape(box);
  atomicAdd(&args.kept()[nms_home(args, shape, cls)].size, 1);
  const int level = shape.level + nms::kLevels / 2;
  const uint32_t bit = 1u << (level % 32);
  // Nearly every box finds its bit set; one that is seen too late costs an update.
  if (!(load_relaxed(levels + level / 32) & bit)) atomicOr(levels + level / 32, bit);
}

template <typename S, typename Score, typename T, typename Item>
__global__ void __launch_bounds__(kNmsTile)
    nms_tile_kernel(NmsInput<S> input, const Score* scores, Item* items, NmsArgs<T> args) {
  __shared__ uint32_t levels[kNmsLevelWords];
  const int t = static_cast<int>(threadIdx.x);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNmsTile + t;
  static_assert(kNmsLevelWords <= kNmsTile);
  if (t < kNmsLevelWords) levels[t] = 0;
  __syncthreads();
  Item item = 0;
  if (i < args.n) {
    // Ascends where the score descends, NaN first.
    const auto key = ~ordered_key(static_cast<acc_t<Score>>(scores[i]));
    item = static_cast<Item>(key) << 32 | static_cast<uint32_t>(i);
    if (args.plan.bins > 0) {
      nms_count_box(args, input.template box<T>(i), args.classes ? input.idxs[i] : 0, levels);
    }
  }
  nms_sort_tile(item, args.n, items);
  if (t < kNmsLevelWords && levels[t] != 0) atomicOr(args.counters().levels + t, levels[t]);
}

// Gives the bin of this thread its slots. Called by all threads of a block of kNmsMergeBlock.
template <typename T>
__device__ void nms_deal_slots(const NmsArgs<T>& args, int64_t bin) {
  constexpr int kWarps = kNmsMergeBlock / 32;
  __shared__ int sums[kWarps], base;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int size = bin < args.plan.bins ? args.kept()[bin].size : 0;
  int end = size;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, end, static_cast<unsigned>(offset));
    if (lane >= offset) end += other;
  }
  if (lane == 31) sums[warp] = end;
  __syncthreads();
  int total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    end += w < warp ? sums[w] : 0;
    total += sums[w];
  }
  if (t == 0) {
    base = static_cast<int>(atomicAdd(&args.counters().slots, static_cast<unsigned>(total)));
  }
  __syncthreads();
  if (bin < args.plan.bins) args.kept()[bin] = args.open[bin] = {base + end - size, 0};
}

template <typename S, typename T, typename Item>
__global__ void __launch_bounds__(kNmsMergeBlock, 6)
    nms_gather_kernel(NmsInput<S> input, NmsMerge<Item> merge, NmsArgs<T> args) {
  const int64_t from = static_cast<int64_t>(blockIdx.x) * kNmsMergeBlock + threadIdx.x;
  if (args.plan.bins > 0) nms_deal_slots(args, from);
  if (from >= args.n) return;
  const int64_t p = nms_place(merge, static_cast<uint32_t>(from)), i = nms_index(merge.items[from]);
  const Vec4<T> box = input.template box<T>(i);
  const int64_t cls = args.classes ? input.idxs[i] : 0;
  args.order[p] = static_cast<int32_t>(i);
  args.boxes[p] = box;
  if (args.classes) args.classes[p] = cls;
  const nms::Kind kind = args.kind(box, args.rule.area(box));
  args.set_state(p, kind == nms::Kind::kInert ? NmsState::kKept : NmsState::kOpen);
  const bool binned = args.plan.bins > 0 && kind == nms::Kind::kNormal;
  args.homes[p] = binned ? nms_home(args, args.grid.shape(box), cls) : -1;
  if (kind == nms::Kind::kOdd) {
    args.odd[atomicAdd(&args.counters().num_odd, 1u)] = static_cast<int32_t>(p);
  }
}

// The rank of this thread's box: kLanes threads each, from begin on.
template <int kLanes>
__device__ __forceinline__ int64_t nms_rank(int64_t begin) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  return begin + thread / kLanes;
}

// Blocks of a multiprocessor that registers must leave room for; float64 needs twice as many.
template <typename T>
constexpr int kNmsResident = sizeof(T) == 4 ? 4 : 2;

template <typename T>
__global__ void __launch_bounds__(kNmsBlock, kNmsResident<T> - kBlocksLess)
    nms_clear_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  using Team = NmsTeam<kNmsLanes>;
  const int64_t rank = nms_rank<kNmsLanes>(begin), p = min(rank, end - 1);
  const bool active = rank < end && args.state(p) != NmsState::kKept;  // not inert
  const NmsQuery<T> query(args, p);
  const bool removed = nms_search<kNmsLanes>(
      active, args, query, args.kept(), 0, begin,
      [&](bool valid, int slot) {
        return Team::any(valid && query.overlaps(args, args.kept_boxes[slot]) &&
                         query.of_class(args, args.kept_ranks + slot));
      },
      [&](bool valid, int64_t j) {
        return Team::any(valid && args.state(j) == NmsState::kKept && query.removed_by(args, j));
      });
  if (!active || Team::lane() != 0) return;
  if (removed) {
    args.set_state(p, NmsState::kRemoved);
  } else if (!query.odd) {
    NmsBin* const bin = args.open + args.homes[p];
    args.open_ranks[bin->start + atomicAdd(&bin->size, 1)] = static_cast<int32_t>(p);
  }
}

// Whether this block of the grid is the last to arrive; what the others wrote before is there for it.
static __device__ __forceinline__ bool nms_last_block(uint32_t* arrived) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // what this block wrote, before its arrival
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    __threadfence();  // what the others wrote, after theirs
  }
  __syncthreads();
  return last;
}

template <int kLanes, bool kFirst, typename T>
__global__ void __launch_bounds__(kNmsBlock, kNmsResident<T> / 2)
    nms_decide_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  __shared__ int32_t lists[kNmsBlock / kLanes][kNmsList];
  __shared__ NmsBits bits;
  NmsCounters& counters = args.counters();
  const int64_t rank = nms_rank<kLanes>(begin), p = min(rank, end - 1);
  const bool open = rank < end && args.state(p) == NmsState::kOpen;
  if (nms_any_of_warp(open)) {
    int32_t* const list = lists[threadIdx.x / kLanes];
    const bool left = nms_decide<kLanes, kFirst>(open, args, list, begin, p);
    if (left && NmsTeam<kLanes>::lane() == 0) atomicAdd(&counters.undecided, 1u);
  }
  if (!nms_last_block(&counters.arrived)) return;
  if (counters.undecided > 0) nms_resolve<kFirst>(args, bits, lists[0], begin, end);
  __syncthreads();
  if (threadIdx.x == 0) counters.arrived = counters.undecided = 0;
}

inline dim3 nms_blocks(int64_t threads, int block) {
  return dim3(static_cast<unsigned>(ceil_div<int64_t>(threads, block)));
}

// Tiles, merges and gathers. items: [2, N].
template <typename S, typename Score, typename T, typename Item>
inline cudaError_t launch_nms_sort(const NmsInput<S>& input, const Score* scores, Item* items,
                                   const NmsArgs<T>& args, cudaStream_t stream) {
  const int64_t n = args.n;
  const NmsMergePlan plan(n, args.plan.tuning);
  cudaError_t error = cudaMemsetAsync(args.zeroed, 0, args.zeroed_bytes(), stream);
  if (error == cudaSuccess) {
    error = launch(nms_tile_kernel<S, Score, T, Item>, nms_blocks(n, kNmsTile), dim3(kNmsTile), 0,
                   stream, input, scores, items, args);
  }
  Item* other = items + n;
  NmsMerge<Item> merge{items, static_cast<uint32_t>(n), kNmsTile, static_cast<uint32_t>(plan.fan)};
  for (int pass = 1; pass < plan.passes && error == cudaSuccess; ++pass) {
    error = launch(nms_merge_kernel<Item>, nms_blocks(n, kNmsMergeBlock), dim3(kNmsMergeBlock), 0,
                   stream, merge, other);
    other = const_cast<Item*>(std::exchange(merge.items, other));
    merge.length *= merge.fan;
  }
  if (error != cudaSuccess) return error;
  const int64_t threads = n > args.plan.bins ? n : args.plan.bins;
  return launch(nms_gather_kernel<S, T, Item>, nms_blocks(threads, kNmsMergeBlock),
                dim3(kNmsMergeBlock), 0, stream, input, merge, args);
}

// The state of every box: kKept or kRemoved.
template <typename T>
inline cudaError_t launch_nms_panels(const NmsArgs<T>& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for_each_nms_panel(args.n, args.plan.tuning, [&](int64_t begin, int64_t end) {
    const dim3 block(kNmsBlock), blocks = nms_blocks((end - begin) * kNmsLanes, kNmsBlock);
    if (error != cudaSuccess) return;
    if (begin == 0) {
      error = launch(nms_decide_kernel<32, true, T>, nms_blocks((end - begin) * 32, kNmsBlock),
                     block, 0, stream, args, begin, end);
      return;
    }
    error = launch(nms_clear_kernel<T>, blocks, block, 0, stream, args, begin, end);
    if (error != cudaSuccess) return;
    error =
        launch(nms_decide_kernel<kNmsLanes, false, T>, blocks, block, 0, stream, args, begin, end);
  });
  return error;
}

}  // namespace ssd_cuda
