// Greedy suppression of N boxes in score order (equal scores: index ascending), classes apart.
//
//   tile      the keys of the scores, sorted in tiles (sort.cuh); how many boxes each bin will get, the levels that there are
//   merge     sorted tiles become longer ones; none up to 16384 boxes
//   gather    the last merge, and boxes in score order; the odd boxes; each bin gets its slots
//   pairs     of the first panel of ranks, all tested
//   settle    one block decides that panel from them (first_panel.cuh)
//   then for each later panel [begin, end), each 9 times the last, up to 32768:
//   sweep     of the second panel: removes what a kept box of the first removes, lists the others and files them in their
//             open bin; files the first panel's kept boxes in theirs (sweep.cuh)
//   clear     of those after it the same, by a search in the bins of all kept boxes (clear.cuh)
//   decide    a team a listed box, a warp where they are few, else a quarter of one: finds the earlier boxes of the
//             panel that would remove it (suppressors.cuh) and looks at their states until they decide it; where a panel
//             follows, kept boxes are filed in their bin
//   resolve   one block: decides the boxes that were left, usually none (resolve.cuh)
//   compact   kept indices in score order (compact.cuh)
//
// Every decision is the greedy one, whatever the order of threads and blocks: the searches test every pair that can matter
// (nms/nms_grid.h has the proof) with the exact rule, and the greedy answer is unique. No thread waits for another.
//
// A bin is the boxes of the cells of one hash. Its boxes are counted before any is filed, so its slots lie side by side: a
// search reads kept boxes, 16 bytes each, lane by lane.
//
// Work: a box looks into about 24 cells at t = 0.5. Memory: O(N), at most 150 bytes a box and 4.7 MB in float. Worst cases:
// boxes for which the grid's argument fails (nms::Kind::kOdd, or the rule IoU >= 0) are tested against all, N^2 / 2 pairs; a
// threshold that lets every box of one cell live is N^2 / 2 pairs as well; a chain in which each box removes the next one is
// left to the block that resolves, which settles 32 boxes a round at least.
// Three launches a panel, two for the first, their number known on the host: no synchronisation. Kernels of one block, sweep
// and compact may begin before the one before them has ended; the others must not: blocks that come early are dealt unevenly,
// and 10,000 sparse boxes took 58 us for 53.
#pragma once

#include <algorithm>

#include "clear.cuh"
#include "compact.cuh"
#include "first_panel.cuh"
#include "sort.cuh"
#include "sweep.cuh"

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
__device__ int32_t nms_home(const NmsArgs<T>& args, const nms::Shape<T>& shape, int64_t cls) {
  return static_cast<int32_t>(args.grid.home_hash(shape, cls) & args.bin_mask());
}

// Counts the box in its bin and marks its level in those of the block.
template <typename T>
__device__ void nms_count_box(const NmsArgs<T>& args, Vec4<T> box, int64_t cls, uint32_t* levels) {
  if (args.kind(box, args.rule.area(box)) != nms::Kind::kNormal) return;
  const nms::Shape<T> shape = args.grid.shape(box);
  atomicAdd(&args.kept()[nms_home(args, shape, cls)].size, 1);
  const int level = shape.level + nms::kLevels / 2;
  const uint32_t bit = 1u << (level % 32);
  // Nearly every box finds its bit set; one that is seen too late costs an update.
  if (!(load_relaxed(levels + level / 32) & bit)) atomicOr(levels + level / 32, bit);
}

template <typename S, typename Score, typename T, typename Item>
__global__ void __launch_bounds__(kNmsTile)
    nms_tile_kernel(NmsInput<S> input, const Score* scores, Item* items, NmsArgs<T> args) {
  after_previous_kernel();
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
  if (t < kNmsLevelWords && levels[t] != 0) atomicOr(args.counters().has_level + t, levels[t]);
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
    const int other = __shfl_up_sync(kFullWarp, end, static_cast<unsigned>(offset));
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
  if (bin >= args.plan.bins) return;
  args.kept()[bin] = args.open_bins(0)[bin] = args.open_bins(1)[bin] = {base + end - size, 0};
}

// Lists the levels that there are. Called by the threads of one block.
template <typename T>
__device__ void nms_list_levels(const NmsArgs<T>& args) {
  const int t = static_cast<int>(threadIdx.x);
  static_assert(kNmsLevelWords <= kNmsMergeBlock);
  if (t >= kNmsLevelWords) return;
  NmsCounters& counters = args.counters();
  int at = 0;
  for (int w = 0; w < t; ++w) at += __popc(counters.has_level[w]);
  for (uint32_t bits = counters.has_level[t]; bits != 0; bits &= bits - 1) {
    counters.levels[at++] =
        static_cast<int16_t>(32 * t + __ffs(static_cast<int>(bits)) - 1 - nms::kLevels / 2);
  }
  if (t == kNmsLevelWords - 1) counters.num_levels = static_cast<uint32_t>(at);
}

inline __host__ __device__ int64_t nms_deal_blocks(int64_t bins) {
  return ceil_div<int64_t>(bins, kNmsMergeBlock);
}

// The first blocks deal slots, a thread a bin; in the others kLanes lanes have an item, the first of them writes.
template <int kLanes, typename S, typename T, typename Item>
__global__ void __launch_bounds__(kNmsMergeBlock, 6)
    nms_gather_kernel(NmsInput<S> input, NmsMerge<Item> merge, NmsArgs<T> args) {
  after_previous_kernel();
  const int64_t block = blockIdx.x - nms_deal_blocks(args.plan.bins);
  if (block < 0) {
    if (blockIdx.x == 0) nms_list_levels(args);
    nms_deal_slots(args, static_cast<int64_t>(blockIdx.x) * kNmsMergeBlock + threadIdx.x);
    return;
  }
  const int64_t thread = block * kNmsMergeBlock + threadIdx.x;
  if (thread / 32 * 32 >= args.n * kLanes) return;  // whole warps
  const int64_t from = min(thread / kLanes, args.n - 1), i = nms_index(merge.items[from]);
  const Vec4<T> box = input.template box<T>(i);
  const int64_t cls = args.classes ? input.idxs[i] : 0;
  constexpr int kAtOnce = kLanes > 1 ? 4 : kNmsSearches<Item>;
  const int64_t p = nms_place<kLanes, kAtOnce>(merge, static_cast<uint32_t>(from));
  if (thread % kLanes != 0 || thread >= args.n * kLanes) return;
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

// Blocks of a multiprocessor that registers must leave room for; float64 needs twice as many.
template <typename T>
constexpr int kNmsDeciding = sizeof(T) == 4 ? 6 - 2 * kBlocksLess : 2;

// Decides the boxes of a block, kLanes lanes each. lists: for each of them [kNmsList], shared.
template <int kLanes, typename T>
__device__ void nms_decide_block(const NmsArgs<T>& args, const NmsPanel& panel, int64_t count,
                                 int32_t (*lists)[kNmsList]) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kNmsDecideBlock / kLanes);
  if (first >= count) return;
  const int64_t i = first + threadIdx.x / kLanes, last = min(i, count - 1);
  const int64_t p = args.list_of(panel.parity)[last];  // open: nobody else decides it
  int32_t* const list = lists[threadIdx.x / kLanes];
  const bool left = nms_decide<kLanes>(i < count, args, list, panel, p);
  if (left && NmsTeam<kLanes>::lane() == 0) atomicAdd(&args.counters().undecided, 1u);
}

// The listed boxes of a later panel; up to `few` have kNmsDecideLanes each.
template <typename T>
__global__ void __launch_bounds__(kNmsDecideBlock, kNmsDeciding<T>)
    nms_decide_kernel(NmsArgs<T> args, NmsPanel panel, int64_t few) {
  after_previous_kernel();
  __shared__ int32_t lists[kNmsDecideBlock / kNmsDecideManyLanes][kNmsList];
  NmsCounters& counters = args.counters();
  const int64_t count = counters.listed[panel.parity];
  // For the next panel; nobody asks in this one.
  if (blockIdx.x == 0 && threadIdx.x == 0) counters.listed[1 - panel.parity] = 0;
  if (count <= few) {
    nms_decide_block<kNmsDecideLanes>(args, panel, count, lists);
  } else {
    nms_decide_block<kNmsDecideManyLanes>(args, panel, count, lists);
  }
}

// One block, which usually finds nothing to do.
template <typename T>
__global__ void __launch_bounds__(kNmsResolveBlock, 1)
    nms_resolve_kernel(NmsArgs<T> args, NmsPanel panel) {
  after_previous_kernel();
  __shared__ int32_t lists[kNmsResolveWarps][kNmsList];
  __shared__ NmsBits bits;
  if (args.counters().undecided == 0) return;
  nms_resolve(args, bits, lists[0], panel);
  if (threadIdx.x == 0) args.counters().undecided = 0;  // a barrier ended the rounds
}

// Tiles, merges and gathers. items: [2, N].
template <typename S, typename Score, typename T, typename Item>
inline cudaError_t launch_nms_sort(const NmsInput<S>& input, const Score* scores, Item* items,
                                   const NmsArgs<T>& args, cudaStream_t stream) {
  const int64_t n = args.n;
  const NmsMergePlan plan(n, args.plan.tuning);
  cudaError_t error = cudaMemsetAsync(args.zeroed, 0, args.zeroed_bytes(), stream);
  if (error == cudaSuccess) {
    error = launch<Start::kAfter>(nms_tile_kernel<S, Score, T, Item>, nms_blocks(n, kNmsTile),
                                  dim3(kNmsTile), 0, stream, input, scores, items, args);
  }
  Item* other = items + n;
  NmsMerge<Item> merge{items, static_cast<uint32_t>(n), kNmsTile, static_cast<uint32_t>(plan.fan)};
  for (int pass = 1; pass < plan.passes && error == cudaSuccess; ++pass) {
    error = launch<Start::kAfter>(nms_merge_kernel<Item>, nms_blocks(n, kNmsMergeBlock),
                                  dim3(kNmsMergeBlock), 0, stream, merge, other);
    other = const_cast<Item*>(std::exchange(merge.items, other));
    merge.length *= merge.fan;
  }
  if (error != cudaSuccess) return error;
  const auto gather = [&](auto kernel, int64_t lanes) {
    const int64_t blocks =
        nms_deal_blocks(args.plan.bins) + ceil_div<int64_t>(n * lanes, kNmsMergeBlock);
    return launch<Start::kAfter>(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kNmsMergeBlock),
                                 0, stream, input, merge, args);
  };
  return plan.passes == 1 ? gather(nms_gather_kernel<kNmsPlaceLanes, S, T, Item>, kNmsPlaceLanes)
                          : gather(nms_gather_kernel<1, S, T, Item>, 1);
}

// How many boxes are listed is not known here: there are blocks for few, and for all.
template <typename T>
inline cudaError_t launch_nms_decide(const NmsArgs<T>& args, const NmsPanel& panel,
                                     cudaStream_t stream) {
  const int64_t size = panel.end - panel.begin;
  const int64_t few = nms_few_boxes(args.plan, kNmsDecideLanes);
  const int64_t threads =
      std::max(std::min(size, few) * kNmsDecideLanes, size * kNmsDecideManyLanes);
  const cudaError_t error =
      launch<Start::kAfter>(nms_decide_kernel<T>, nms_blocks(threads, kNmsDecideBlock),
                            dim3(kNmsDecideBlock), 0, stream, args, panel, few);
  if (error != cudaSuccess) return error;
  return launch(nms_resolve_kernel<T>, dim3(1), dim3(kNmsResolveBlock), 0, stream, args, panel);
}

// The state of every box: kKept or kRemoved.
template <typename T>
inline cudaError_t launch_nms_panels(const NmsArgs<T>& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  int64_t last_begin = 0;
  int parity = 0;
  for_each_nms_panel(args.n, args.plan.tuning, [&](int64_t begin, int64_t end) {
    const NmsPanel panel{begin, end, last_begin, parity};
    last_begin = begin, parity = 1 - parity;
    if (error != cudaSuccess) return;
    if (begin == 0) {
      error = launch_nms_first_panel(args, static_cast<int>(end), stream);
      return;
    }
    const bool second = begin == args.plan.first_panel;
    error = second ? launch_nms_sweep(args, panel, stream) : launch_nms_clear(args, panel, stream);
    if (error == cudaSuccess) error = launch_nms_decide(args, panel, stream);
  });
  return error;
}

}  // namespace ssd_cuda
