// Greedy suppression of N boxes that are already in order: (class, score descending, index ascending).
//
// The order is cut into panels of 2048 boxes.
//   mask      for every box a bit per earlier box of its panel that would remove it, and a bit per word of those
//             that is not zero: all panels at once
//   step s    clears what the kept boxes of panel s-1 remove in the rest of its last class, a thread a box and
//             part of the kept boxes; the last of the blocks that hold panel s resolves it, while the others go on
//   compact   kept indices in score order, their number, -1 in the rows after them
//
// A panel is resolved in rounds: a box with a kept remover goes, a box whose removers are all gone stays. Every
// round settles at least the first 32 open boxes, so there are at most 64 rounds, and in practice a few. Every
// decision is the greedy one, whatever the order of threads and blocks.
//
// Bytes: mask writes and reads N * 256 at most, step s reads 16 (N - 2048 s), so O(N) memory and O(N^2 / 2048)
// reads, which L2 serves to 10^6 boxes. A launch a panel, their number known on the host: no synchronisation.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/nms_math.h"

namespace ssd_cuda {

constexpr int kNmsBlock = 1024;  // threads
constexpr int kNmsPanel = 2048;  // boxes
constexpr int kNmsWords = kNmsPanel / 32;
constexpr int kNmsPerThread = kNmsPanel / kNmsBlock;
constexpr int kNmsTile = 256;  // kept boxes in shared memory while clearing
constexpr int kNmsParts = kNmsPanel / kNmsTile;
constexpr int kNmsStepBlocks = 264;  // wanted while clearing: two a multiprocessor of an H100
constexpr int kNmsMaskBlock = 256;
static_assert(kNmsWords <= 64, "the words that a box needs are noted in 64 bits");
static_assert(kNmsBlock % 32 == 0 && kNmsTile <= kNmsBlock);

template <typename T>
struct NmsArgs {
  const T* boxes;          // [N, 4] in order
  const int64_t* classes;  // [N] in order, or null
  uint8_t* removed;        // [N], zero at first
  uint32_t* mask;  // [panels, kNmsWords, kNmsPanel]; word w of box i, written where needed says so
  unsigned long long* needed;  // [N] the words w < i / 32 of box i that are not zero; zero at first
  T* kept;              // [2, kNmsPanel, 4]: of the last class of a panel, for even and odd panels
  int32_t* kept_count;  // [panels]
  uint32_t* arrived;    // [panels], zero at first
  int64_t n;
  SuppressRule<T> rule;

  __device__ Vec4<T> box(int64_t p) const { return reinterpret_cast<const Vec4<T>*>(boxes)[p]; }
  __device__ int64_t class_of(int64_t p) const { return classes ? classes[p] : 0; }
  // volatile: the parts of a step may set the same byte at once, each to 1, while others read it.
  __device__ bool is_removed(int64_t p) const {
    return *static_cast<const volatile uint8_t*>(removed + p) != 0;
  }
  __device__ void remove(int64_t p) const { *static_cast<volatile uint8_t*>(removed + p) = 1; }
  __device__ Vec4<T>* kept_of(int64_t panel) const {
    return reinterpret_cast<Vec4<T>*>(kept) + (panel % 2) * kNmsPanel;
  }
};

// Workspace of NmsArgs, in elements.
inline int64_t nms_panels(int64_t n) { return ceil_div<int64_t>(n, kNmsPanel); }
inline int64_t nms_parts(int64_t blocks) {
  const int64_t parts = kNmsStepBlocks / blocks;
  return parts < 1 ? 1 : parts > kNmsParts ? kNmsParts : parts;
}
inline int64_t nms_mask_words(int64_t n) { return nms_panels(n) * kNmsWords * kNmsPanel; }

// keys[i] ascends where the score descends, NaN first. Key: int32, or int64 for double scores.
template <typename S, typename Wide, typename Key>
__global__ void __launch_bounds__(kNmsMaskBlock)
    nms_key_kernel(const S* scores, int64_t n, Key* keys) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const auto key = ~score_key(static_cast<Wide>(scores[i]));
  keys[i] = static_cast<Key>(key ^ (decltype(key){1} << (8 * sizeof(Key) - 1)));
}

// What the boxes in score order and then in class order are made of.
template <typename S, typename T>
struct NmsGather {
  const S* boxes;              // [N, 4]
  const int64_t* idxs;         // [N] or null
  const int64_t* order;        // [N] box of each rank
  const int64_t* rank_at;      // [N] rank at each place of the class order, or null: one class
  T* sorted_boxes;             // [N, 4]
  int64_t* sorted_classes;     // [N] or null
  int32_t* place_of;           // [N] place of each rank, or null
  uint8_t* removed;            // [N]
  unsigned long long* needed;  // [N]
  uint32_t* arrived;           // [panels]
  int64_t n;
};

template <typename S, typename T>
__global__ void __launch_bounds__(kNmsMaskBlock) nms_gather_kernel(NmsGather<S, T> g) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= g.n) return;
  const int64_t rank = g.rank_at ? g.rank_at[p] : p, i = g.order[rank];
  for (int c = 0; c < 4; ++c) g.sorted_boxes[4 * p + c] = static_cast<T>(g.boxes[4 * i + c]);
  if (g.rank_at) {
    g.sorted_classes[p] = g.idxs[i];
    g.place_of[rank] = static_cast<int32_t>(p);
  }
  g.removed[p] = 0;
  g.needed[p] = 0;
  if (p % kNmsPanel == 0) g.arrived[p / kNmsPanel] = 0;
}

// classes[r] = idxs[order[r]]
static __global__ void __launch_bounds__(kNmsMaskBlock)
    nms_class_kernel(const int64_t* idxs, const int64_t* order, int64_t n, int64_t* classes) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r < n) classes[r] = idxs[order[r]];
}

// One block for word blockIdx.y of every box of panel blockIdx.x: 32 earlier boxes in shared memory.
template <typename T>
__global__ void __launch_bounds__(kNmsMaskBlock) nms_mask_kernel(NmsArgs<T> args) {
  __shared__ Vec4<T> earlier[32];
  __shared__ T area[32];
  __shared__ int64_t cls[32];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNmsPanel;
  const int size = static_cast<int>(min(static_cast<int64_t>(kNmsPanel), args.n - first));
  const int begin = static_cast<int>(blockIdx.y) * 32, count = min(32, size - begin);
  if (count <= 0) return;
  const int t = static_cast<int>(threadIdx.x);
  if (t < count) {
    earlier[t] = args.box(first + begin + t);
    area[t] = args.rule.area(earlier[t]);
    cls[t] = args.class_of(first + begin + t);
  }
  __syncthreads();
  uint32_t* words =
      args.mask + (static_cast<int64_t>(blockIdx.x) * kNmsWords + blockIdx.y) * kNmsPanel;
  for (int i = begin + t; i < size; i += kNmsMaskBlock) {
    const Vec4<T> box = args.box(first + i);
    const T own = args.rule.area(box);
    const int64_t own_class = args.class_of(first + i);
    const int others = min(count, i - begin);
    uint32_t word = 0;
    for (int j = 0; j < others; ++j) {
      if (cls[j] == own_class && args.rule(earlier[j], area[j], box, own)) word |= 1u << j;
    }
    const bool own_word = i < begin + 32;
    if (word != 0 && !own_word) atomicOr(args.needed + first + i, 1ull << blockIdx.y);
    if (word != 0 || own_word) words[i] = word;
  }
}

// Box p against every `parts`-th tile of the kept boxes of the panel before `panel`. Called by whole blocks.
template <typename T>
__device__ __forceinline__ void clear_box(const NmsArgs<T>& args, int64_t panel, int64_t p,
                                          int part, int parts) {
  __shared__ Vec4<T> tile[kNmsTile];
  __shared__ T area[kNmsTile];
  const Vec4<T>* kept = args.kept_of(panel - 1);
  const int count = args.kept_count[panel - 1];
  const bool candidate =
      p < args.n && !args.is_removed(p) && args.class_of(p) == args.class_of(panel * kNmsPanel - 1);
  bool open = candidate;
  const Vec4<T> box = open ? args.box(p) : Vec4<T>{};
  const T own = args.rule.area(box);
  const int t = static_cast<int>(threadIdx.x);
  for (int begin = part * kNmsTile; begin < count; begin += parts * kNmsTile) {
    if (!__syncthreads_or(open)) return;
    const int size = min(kNmsTile, count - begin);
    if (t < size) {
      tile[t] = kept[begin + t];
      area[t] = args.rule.area(tile[t]);
    }
    __syncthreads();
    for (int k = 0; open && k < size; ++k) open = !args.rule(tile[k], area[k], box, own);
    if (candidate && !open) args.remove(p);
  }
}

// What a block knows of the panel it resolves, a bit a box.
struct PanelBits {
  uint32_t removed[kNmsWords], kept[kNmsWords], carried[kNmsWords];
};

// The open boxes of one word of 32, a lane each, decided as far as the other words are known.
struct WordState {
  uint32_t removed, kept;  // the same in every lane
  bool open;
};
__device__ __forceinline__ WordState decide_word(WordState word, uint32_t removers, bool dead,
                                                 bool blocked) {
  while (true) {
    const bool goes = word.open && (dead || (removers & word.kept) != 0);
    const bool stays = word.open && !goes && !blocked && (removers & ~word.removed) == 0;
    const uint32_t gone = __ballot_sync(0xffffffffu, goes),
                   kept = __ballot_sync(0xffffffffu, stays);
    if ((gone | kept) == 0) return word;
    word.removed |= gone, word.kept |= kept;
    word.open = word.open && !goes && !stays;
  }
}

// Decides every box of the panel, given what earlier panels removed. candidate: not removed by them. Called by
// a whole block; thread t has the boxes t, t + kNmsBlock, a warp 32 boxes of one word at a time. In a round every
// warp settles its words as far as the words before them allow, so the first open word is settled in full.
template <typename T>
__device__ __forceinline__ void decide_panel(const NmsArgs<T>& args, int64_t panel,
                                             const bool (&candidate)[kNmsPerThread],
                                             PanelBits& bits) {
  const uint32_t* mask = args.mask + panel * kNmsWords * kNmsPanel;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  uint64_t needed[kNmsPerThread];  // earlier words with removers that are not known to be gone
  uint32_t own[kNmsPerThread];     // removers in the word of the box
  WordState state[kNmsPerThread];
#pragma unroll
  for (int r = 0; r < kNmsPerThread; ++r) {
    const int i = t + r * kNmsBlock, word = i / 32;
    needed[r] = candidate[r] ? args.needed[panel * kNmsPanel + i] : 0;
    own[r] = candidate[r] ? mask[word * kNmsPanel + i] : 0;
    state[r] = {~__ballot_sync(0xffffffffu, candidate[r]), 0, candidate[r]};
    if (lane == 0) bits.removed[word] = state[r].removed, bits.kept[word] = 0;
  }
  __syncthreads();
  bool any_open = true;
  while (any_open) {
    bool still_open = false;
#pragma unroll
    for (int r = 0; r < kNmsPerThread; ++r) {
      bool dead = false, blocked = false;
      for (uint64_t rest = state[r].open ? needed[r] : 0; rest != 0 && !dead; rest &= rest - 1) {
        const int w = __ffsll(static_cast<long long>(rest)) - 1;
        const uint32_t removers = mask[w * kNmsPanel + t + r * kNmsBlock];
        dead = (removers & bits.kept[w]) != 0;
        const bool known = (removers & ~bits.removed[w]) == 0;
        if (known) needed[r] &= ~(uint64_t{1} << w);
        blocked = blocked || !known;
      }
      state[r] = decide_word(state[r], own[r], dead, blocked);
      still_open = still_open || state[r].open;
    }
    any_open = __syncthreads_or(still_open);  // everybody has read the bits
#pragma unroll
    for (int r = 0; r < kNmsPerThread; ++r) {
      const int word = (t + r * kNmsBlock) / 32;
      if (lane == 0) bits.removed[word] = state[r].removed, bits.kept[word] = state[r].kept;
    }
    __syncthreads();
  }
}

// Decides the panel, writes removed and hands the kept boxes of its last class to the next step.
template <typename T>
__device__ __forceinline__ void resolve_panel(const NmsArgs<T>& args, int64_t panel) {
  __shared__ PanelBits bits;
  const int64_t first = panel * kNmsPanel;
  const int size = static_cast<int>(min(static_cast<int64_t>(kNmsPanel), args.n - first));
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  const int64_t last_class = args.class_of(first + size - 1);
  bool candidate[kNmsPerThread];
#pragma unroll
  for (int r = 0; r < kNmsPerThread; ++r) {
    const int i = t + r * kNmsBlock;
    candidate[r] = i < size && !args.is_removed(first + i);
  }
  decide_panel(args, panel, candidate, bits);
#pragma unroll
  for (int r = 0; r < kNmsPerThread; ++r) {
    const int i = t + r * kNmsBlock, word = i / 32;
    const bool kept = (bits.kept[word] >> lane) & 1;
    if (candidate[r] && !kept) args.remove(first + i);
    const uint32_t carried =
        __ballot_sync(0xffffffffu, kept && args.class_of(first + i) == last_class);
    if (lane == 0) bits.carried[word] = carried;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kNmsPerThread; ++r) {
    const int i = t + r * kNmsBlock, word = i / 32;
    int place = lane < word ? __popc(bits.carried[lane]) : 0;
    if (lane + 32 < word) place += __popc(bits.carried[lane + 32]);
    for (int offset = 16; offset > 0; offset /= 2) {
      place += __shfl_xor_sync(0xffffffffu, place, offset);
    }
    place += __popc(bits.carried[word] & ((1u << lane) - 1));
    if ((bits.carried[word] >> lane) & 1) args.kept_of(panel)[place] = args.box(first + i);
    if (i == kNmsPanel - 1) args.kept_count[panel] = place + ((bits.carried[word] >> lane) & 1);
  }
}

// Grid: over the boxes from the panel's first on, kNmsBlock each, times parts: the panel's own blocks come first.
template <typename T>
__global__ void __launch_bounds__(kNmsBlock, 1)
    nms_step_kernel(NmsArgs<T> args, int64_t panel, unsigned parts) {
  __shared__ bool last;
  const unsigned column = blockIdx.x / parts;
  if (panel > 0) {
    const int64_t p = panel * kNmsPanel + static_cast<int64_t>(column) * kNmsBlock + threadIdx.x;
    clear_box(args, panel, p, static_cast<int>(blockIdx.x % parts), static_cast<int>(parts));
  }
  const unsigned blocks =
      min(gridDim.x, static_cast<unsigned>(kNmsPerThread) * parts);  // that hold the panel
  if (blockIdx.x >= blocks) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(args.arrived + panel, 1u) == blocks - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  resolve_panel(args, panel);
}

struct NmsOutput {
  const uint8_t* removed;   // [N] by place
  const int32_t* place_of;  // [N] place of each rank, or null: the rank
  const int64_t* order;     // [N] box of each rank
  int64_t* keep;            // [rows]
  int64_t* count;           // []
  int64_t n, rows;
};

// One block: kept boxes in score order. A warp takes 8 rows of 32 ranks at a time, the block 8192 ranks.
static __global__ void __launch_bounds__(kNmsBlock, 1) nms_compact_kernel(NmsOutput o) {
  constexpr int kWarps = kNmsBlock / 32, kRows = 8;
  __shared__ int totals[kWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  int64_t written = 0;
  for (int64_t begin = 0; begin < o.n && written < o.rows; begin += kNmsBlock * kRows) {
    const int64_t first = begin + warp * (32 * kRows) + lane;
    uint32_t words[kRows];
    int in_warp = 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int64_t rank = first + row * 32;
      bool kept = false;
      if (rank < o.n) kept = o.removed[o.place_of ? o.place_of[rank] : rank] == 0;
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
  for (int64_t row = written + t; row < o.rows; row += kNmsBlock) o.keep[row] = -1;
  if (t == 0) *o.count = written;
}

inline dim3 nms_grid(int64_t n, int block) {
  return dim3(static_cast<unsigned>(ceil_div<int64_t>(n, block)));
}

template <typename S, typename Wide, typename Key>
inline cudaError_t launch_nms_keys(const S* scores, int64_t n, Key* keys, cudaStream_t stream) {
  return launch(nms_key_kernel<S, Wide, Key>, nms_grid(n, kNmsMaskBlock), dim3(kNmsMaskBlock), 0,
                stream, scores, n, keys);
}

inline cudaError_t launch_nms_classes(const int64_t* idxs, const int64_t* order, int64_t n,
                                      int64_t* classes, cudaStream_t stream) {
  return launch(nms_class_kernel, nms_grid(n, kNmsMaskBlock), dim3(kNmsMaskBlock), 0, stream, idxs,
                order, n, classes);
}

template <typename S, typename T>
inline cudaError_t launch_nms_gather(const NmsGather<S, T>& gather, cudaStream_t stream) {
  return launch(nms_gather_kernel<S, T>, nms_grid(gather.n, kNmsMaskBlock), dim3(kNmsMaskBlock), 0,
                stream, gather);
}

// removed[p] for every box in order.
template <typename T>
inline cudaError_t launch_nms(const NmsArgs<T>& args, cudaStream_t stream) {
  const int64_t panels = nms_panels(args.n);
  cudaError_t error = launch(nms_mask_kernel<T>, dim3(static_cast<unsigned>(panels), kNmsWords),
                             dim3(kNmsMaskBlock), 0, stream, args);
  for (int64_t panel = 0; panel < panels && error == cudaSuccess; ++panel) {
    const int64_t blocks =
        panel == 0 ? 1 : ceil_div<int64_t>(args.n - panel * kNmsPanel, kNmsBlock);
    const int64_t parts = panel == 0 ? 1 : nms_parts(blocks);
    error = launch(nms_step_kernel<T>, dim3(static_cast<unsigned>(blocks * parts)), dim3(kNmsBlock),
                   0, stream, args, panel, static_cast<unsigned>(parts));
  }
  return error;
}

inline cudaError_t launch_nms_compact(const NmsOutput& output, cudaStream_t stream) {
  return launch(nms_compact_kernel, dim3(1), dim3(kNmsBlock), 0, stream, output);
}

}  // namespace ssd_cuda
