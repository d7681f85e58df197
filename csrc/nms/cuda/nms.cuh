// Greedy suppression of N boxes that are already in score order (equal scores: index ascending), classes apart.
//
//   keys      scores as integers for the sort, which is the binding's; clears the counters
//   gather    boxes in score order; the levels that there are, the odd boxes; empties every list
//   then for each panel of ranks [begin, end), two of 4096 and from there each twice the last, up to 32768:
//   clear     8 lanes a box: removed if a kept box removes it, else filed in the panel's grid
//   conflict  8 lanes a box: lists the earlier boxes of the panel that would remove it
//   resolve   one block decides the panel from the lists (resolve.cuh)
//   insert    a thread a box: the kept ones are filed in the grid of kept boxes; the panel's grid is emptied
//   compact   kept indices in score order, their number, -1 in the rows after them
//
// Every decision is the greedy one, whatever the order of threads and blocks: the searches test every pair that can matter
// (nms/nms_grid.h has the proof) with the exact rule, and the greedy answer is unique.
//
// Work: a box looks into about 9 cells at t = 0.5. Bytes: N (16 + 8 + 4) written once, and 20 for each pair tested, from
// L2. Memory: O(N), at most 41 N + 4.5 MB. Worst cases: boxes for which the grid's argument fails (nms::Kind::kOdd, or the
// rule IoU >= 0) are tested against all, N^2 / 2 pairs; a threshold that lets every box of one cell live is N^2 / 2 pairs as
// well; a chain in which each box removes the next one settles 32 boxes a round at least, N / 32 rounds.
// Four launches a panel, their number known on the host: no synchronisation.
#pragma once

#include "resolve.cuh"

namespace ssd_cuda {

constexpr int kNmsBlock = 256;  // threads; a box each, or a box for 8 of them
constexpr int kNmsLanes = 8;
constexpr int kNmsCompactBlock = 1024;

// keys[i] ascends where the score descends, NaN first. Key: int32, or int64 for double scores.
template <typename S, typename Wide, typename Key>
__global__ void __launch_bounds__(kNmsBlock)
    nms_key_kernel(const S* scores, int64_t n, Key* keys, uint32_t* counters) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < kNmsCounters) counters[i] = 0;
  if (i >= n) return;
  const auto key = ~ordered_key(static_cast<Wide>(scores[i]));
  keys[i] = static_cast<Key>(key ^ (decltype(key){1} << (8 * sizeof(Key) - 1)));
}

// What the boxes in score order are made of.
template <typename S>
struct NmsInput {
  const S* boxes;        // [N, 4]
  const int64_t* idxs;   // [N], or null where NmsArgs has no classes
  const int64_t* order;  // [N] box of each rank
};

template <typename S, typename T>
__global__ void __launch_bounds__(kNmsBlock) nms_gather_kernel(NmsInput<S> input, NmsArgs<T> args) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p < args.plan.kept_heads) args.kept_heads[p] = -1;
  if (p < args.plan.panel_heads) args.panel_heads[p] = -1;
  if (p >= args.n) return;
  const int64_t i = input.order[p];
  const S* numbers = input.boxes + 4 * i;
  const Vec4<T> box{static_cast<T>(numbers[0]), static_cast<T>(numbers[1]),
                    static_cast<T>(numbers[2]), static_cast<T>(numbers[3])};
  args.boxes[p] = box;
  if (args.classes) args.classes[p] = input.idxs[i];
  const nms::Kind kind = args.kind(box, args.rule.area(box));
  args.set_state(p, kind == nms::Kind::kInert ? NmsState::kKept : NmsState::kOpen);
  if (kind == nms::Kind::kOdd) args.odd[atomicAdd(args.num_odd(), 1u)] = static_cast<int32_t>(p);
  if (kind != nms::Kind::kNormal) return;
  const int level = args.grid.shape(box).level + nms::kLevels / 2;
  uint32_t* word = args.levels() + level / 32;
  const uint32_t bit = 1u << (level % 32);
  // Nearly every box finds its bit set; one that is seen too late costs an update.
  if (!(load_relaxed(word) & bit)) atomicOr(word, bit);
}

// The rank of this thread's box: kNmsLanes threads each, from begin on.
static __device__ __forceinline__ int64_t nms_rank(int64_t begin) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  return begin + thread / kNmsLanes;
}

template <typename T>
__global__ void __launch_bounds__(kNmsBlock, 3)
    nms_clear_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  const int64_t p = nms_rank(begin);
  if (p >= end || args.state(p) == NmsState::kKept) return;  // inert
  const NmsQuery<T> query = nms_query(args, p, args.kept_heads, args.plan.kept_heads, 0, begin);
  const bool removed =
      begin > 0 && nms_search<kNmsLanes>(
                       args, query, [&](int64_t j) { return args.state(j) == NmsState::kKept; },
                       [&](int64_t j) { return query.removed_by(args, j); });
  __syncwarp(NmsTeam<kNmsLanes>::mask());  // the whole team has read the state that changes now
  if (NmsTeam<kNmsLanes>::lane() != 0) return;
  if (removed) {
    args.set_state(p, NmsState::kRemoved);
  } else if (query.kind == nms::Kind::kNormal) {
    nms_file(args, query.box, p, args.panel_heads, args.plan.panel_heads);
  }
}

template <typename T>
__global__ void __launch_bounds__(kNmsBlock, 3)
    nms_conflict_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  __shared__ NmsFound found[kNmsBlock / kNmsLanes];
  const int64_t p = nms_rank(begin);
  if (p >= end || args.state(p) != NmsState::kOpen) return;
  nms_list_suppressors<kNmsLanes>(args, found[threadIdx.x / kNmsLanes], begin, p,
                                  [](int) { return true; });
}

// One block.
template <typename T>
__global__ void __launch_bounds__(kNmsResolveBlock, 1)
    nms_resolve_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  nms_resolve(args, begin, end);
}

// Grid: over the boxes of the panel or its heads, whichever are more.
template <typename T>
__global__ void __launch_bounds__(kNmsBlock)
    nms_insert_kernel(NmsArgs<T> args, int64_t begin, int64_t end) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, p = begin + i;
  if (i < args.plan.panel_heads) args.panel_heads[i] = -1;
  if (p >= end || args.state(p) != NmsState::kKept) return;
  const Vec4<T> box = args.box(p);
  if (args.kind(box, args.rule.area(box)) != nms::Kind::kNormal) return;
  nms_file(args, box, p, args.kept_heads, args.plan.kept_heads);
}

struct NmsOutput {
  const uint8_t* states;  // [N] NmsState by rank
  const int64_t* order;   // [N] box of each rank
  int64_t* keep;          // [rows]
  int64_t* count;         // []
  int64_t n, rows;
};

// One block: kept boxes in score order. A warp takes 8 rows of 32 ranks at a time, the block 8192 ranks.
static __global__ void __launch_bounds__(kNmsCompactBlock, 1) nms_compact_kernel(NmsOutput o) {
  constexpr int kWarps = kNmsCompactBlock / 32, kRows = 8;
  __shared__ int totals[kWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  int64_t written = 0;
  for (int64_t begin = 0; begin < o.n && written < o.rows; begin += kNmsCompactBlock * kRows) {
    const int64_t first = begin + warp * (32 * kRows) + lane;
    uint32_t words[kRows];
    int in_warp = 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int64_t rank = first + row * 32;
      bool kept = false;
      if (rank < o.n) kept = static_cast<NmsState>(o.states[rank]) == NmsState::kKept;
      words[row] = __ballot_sync(0xffffffffu, kept);
      in_warp += __popc(words[row]);
    }
    if (lane == 0) totals[warp] = in_warp;
    __syncthreads();
    int64_t at = written;
    for (int w = 0; w < kWarps; ++w) {
      at += w < warp ? totals[w] : 0;
      written += totals[w];
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int64_t place = at + __popc(words[row] & ((1u << lane) - 1));
      if (((words[row] >> lane) & 1) && place < o.rows) o.keep[place] = o.order[first + row * 32];
      at += __popc(words[row]);
    }
    __syncthreads();  // before totals is overwritten
  }
  written = min(written, o.rows);
  for (int64_t row = written + t; row < o.rows; row += kNmsCompactBlock) o.keep[row] = -1;
  if (t == 0) *o.count = written;
}

inline dim3 nms_blocks(int64_t threads, int block) {
  return dim3(static_cast<unsigned>(ceil_div<int64_t>(threads, block)));
}

template <typename S, typename Wide, typename Key>
inline cudaError_t launch_nms_keys(const S* scores, int64_t n, Key* keys, uint32_t* counters,
                                   cudaStream_t stream) {
  return launch(nms_key_kernel<S, Wide, Key>,
                nms_blocks(n > kNmsCounters ? n : kNmsCounters, kNmsBlock), dim3(kNmsBlock), 0,
                stream, scores, n, keys, counters);
}

// The state of every box: kKept or kRemoved.
template <typename S, typename T>
inline cudaError_t launch_nms(const NmsInput<S>& input, const NmsArgs<T>& args,
                              cudaStream_t stream) {
  const NmsPlan& plan = args.plan;  // as many heads as boxes at least
  cudaError_t error = launch(nms_gather_kernel<S, T>, nms_blocks(plan.kept_heads, kNmsBlock),
                             dim3(kNmsBlock), 0, stream, input, args);
  for_each_nms_panel(args.n, plan.first_panel, [&](int64_t begin, int64_t end) {
    const int64_t boxes = end - begin, lanes = boxes * kNmsLanes;
    if (error == cudaSuccess) {
      error = launch(nms_clear_kernel<T>, nms_blocks(lanes, kNmsBlock), dim3(kNmsBlock), 0, stream,
                     args, begin, end);
    }
    if (error == cudaSuccess) {
      error = launch(nms_conflict_kernel<T>, nms_blocks(lanes, kNmsBlock), dim3(kNmsBlock), 0,
                     stream, args, begin, end);
    }
    if (error == cudaSuccess) {
      error = launch(nms_resolve_kernel<T>, dim3(1), dim3(kNmsResolveBlock), 0, stream, args, begin,
                     end);
    }
    if (error == cudaSuccess && end < args.n) {
      error = launch(nms_insert_kernel<T>,
                     nms_blocks(boxes > plan.panel_heads ? boxes : plan.panel_heads, kNmsBlock),
                     dim3(kNmsBlock), 0, stream, args, begin, end);
    }
  });
  return error;
}

inline cudaError_t launch_nms_compact(const NmsOutput& output, cudaStream_t stream) {
  return launch(nms_compact_kernel, dim3(1), dim3(kNmsCompactBlock), 0, stream, output);
}

}  // namespace ssd_cuda
