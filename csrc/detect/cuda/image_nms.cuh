// NMS of one image by one CTA, in score order, kChunk candidates at a time.
//
// A chunk: decode the boxes, whose numbers are on their way while the keys are ranked; drop those beyond their list's top_k
// and those that a kept box suppresses; build the bit mask of who suppresses whom within the chunk; then decide in
// rounds. A candidate is kept once all that could suppress it are gone, and gone once one of them is kept: the greedy
// result, reached in as many rounds as the longest chain (a handful in practice), the same for any order of threads.
#pragma once

#include "pool.cuh"

namespace ssd_cuda {

constexpr int kChunk = 256;
constexpr int kChunkWords = kChunk / 32;

// The kept boxes of the image, in order. [rows] each, shared or global memory.
template <typename T>
struct KeptList {
  Vec4<T>* boxes;
  T* areas;
  unsigned* lists;
};

template <typename T>
struct ChunkState {
  Vec4<T> box[kChunk];
  T area[kChunk];
  unsigned list[kChunk];
  uint32_t label[kChunk];  // a division that is done once
  unsigned
      mask[kChunkWords *
           kChunk];  // [w][t], w <= t / 32: bit j - 32 w: an earlier j of t's list suppresses t
  unsigned gone[kChunkWords];
  unsigned kept[kChunkWords];
};

// Which of 32 boxes in a row are of a list: a word for every list and every 32 boxes of a chunk, and of those kept. Shared
// memory, or null where it has no room for them: then lists are compared one by one.
struct ListTable {
  int lists;
  unsigned* chunk;  // [kChunkWords, lists], 0 between chunks
  unsigned* kept;   // [words of 32 rows, lists]
};

// What a thread has read of a candidate before it knows the place of its key.
template <typename T>
struct FetchedCandidate {
  CandidateKey<T> key;
  bool whole;  // the rest as well
  uint32_t label;
  Vec4<T> code, prior;
};

// kOwnRules: classes differ in their iou_threshold.
template <typename T, typename S, bool kOwnRules>
struct ImageNms {
  const DetectOptions<T>& options;
  const DetectInputs<T, S>& inputs;
  const DetectOutputs<T>& outputs;
  int64_t image;
  KeptList<T> kept_list;
  unsigned* seen;  // [lists] candidates that each list has had, or null when top_k cannot bind
  ChunkState<T>* chunk;
  ListTable table;

  // A thread a key, of `left` from the next chunk on. What the decoding needs is asked for here, of all that can be of the
  // chunk: no key is further from its place than a bucket is long.
  __device__ __forceinline__ FetchedCandidate<T> fetch(const CandidateKey<T>* keys,
                                                       int left) const {
    constexpr int kNear = kChunk + static_cast<int>(kSortCrowd);
    const int t = threadIdx.x;
    FetchedCandidate<T> found{
        .key = 0, .whole = t < left && t < kNear, .label = 0, .code = {}, .prior = {}};
    if (t < left) found.key = keys[t];
    if (found.whole) {
      const uint32_t index = candidate_index(found.key),
                     priors = static_cast<uint32_t>(inputs.num_priors);
      found.label = index / priors;
      found.code = inputs.code(image, index - found.label * priors);
      found.prior = inputs.prior(image, index - found.label * priors);
    }
    return found;
  }

  // All threads. keys: the next `count` <= kChunk candidates, num_before: how many came before, num_kept: kept of them;
  // fetched: what fetch() found there. Where the run is not empty, they are its first and it is brought into order. Returns
  // the new number.
  template <typename Scratch>
  __device__ __forceinline__ int64_t add(CandidateKey<T>* keys, int count,
                                         const FetchedCandidate<T>& fetched, const DealtRun& run,
                                         const Scratch* scratch, int64_t num_before,
                                         int64_t num_kept) const {
    // No list has had more than all before; where a list cannot be full its candidates are only counted.
    const bool may_be_full = seen != nullptr && num_before + count > options.top_k;
    load(keys, count, fetched, run, scratch, seen != nullptr && !may_be_full);
    __syncthreads();
    if (may_be_full) drop_beyond_top_k(count);
    if (num_kept > 0) {
      drop_suppressed(count, num_kept);
      __syncthreads();
    }
    build_mask(count);
    __syncthreads();
    decide(count);
    return store(keys, count, num_kept);
  }

 private:
  __device__ __forceinline__ static bool bit(const unsigned* words, int i) {
    return words[i / 32] >> (i % 32) & 1u;
  }

  // Bit j: lists[j] is `list`, for j < count <= 32. Cheap beside the test of two boxes, and the same j in every lane.
  __device__ __forceinline__ static unsigned same_list(const unsigned* lists, int count,
                                                       unsigned list) {
    unsigned same = 0;
#pragma unroll 8
    for (int j = 0; j < count; ++j) same |= lists[j] == list ? 1u << j : 0u;
    return same;
  }

  // Bit j: candidate 32 w + j of the chunk is of `list`, for j < count <= 32.
  __device__ __forceinline__ unsigned same_in_chunk(int w, int count, unsigned list) const {
    if (table.chunk == nullptr) return same_list(chunk->list + 32 * w, count, list);
    return table.chunk[w * table.lists + static_cast<int>(list)] & low_bits(count);
  }
  // The same of the kept boxes.
  __device__ __forceinline__ unsigned same_in_kept(int w, int count, unsigned list) const {
    if (table.kept == nullptr) return same_list(kept_list.lists + 32 * w, count, list);
    return table.kept[w * table.lists + static_cast<int>(list)];
  }
  __device__ __forceinline__ static unsigned low_bits(int count) {
    return count < 32 ? (1u << count) - 1u : ~0u;
  }

  // Bits of `same` whose box suppresses `box` of the list. first: stop at the first one.
  __device__ __forceinline__ unsigned suppressors(const Vec4<T>* boxes, const T* areas,
                                                  unsigned same, Vec4<T> box, T area, unsigned list,
                                                  bool first) const {
    if constexpr (kOwnRules) {
      return suppressors(options.rule_of(list), boxes, areas, same, box, area, first);
    } else {  // where the arguments of the kernel lie, not in registers
      return suppressors(options.rule, boxes, areas, same, box, area, first);
    }
  }
  __device__ __forceinline__ static unsigned suppressors(const SuppressRule<T>& rule,
                                                         const Vec4<T>* boxes, const T* areas,
                                                         unsigned same, Vec4<T> box, T area,
                                                         bool first) {
    unsigned found = 0;
    for (; same != 0 && !(first && found != 0); same &= same - 1) {
      const int j = __ffs(static_cast<int>(same)) - 1;
      if (rule(boxes[j], areas[j], box, area)) found |= 1u << j;
    }
    return found;
  }

  // A thread a key: of a run that is not in order yet it is ranked here.
  template <typename Scratch>
  __device__ __forceinline__ void load(CandidateKey<T>* keys, int count,
                                       const FetchedCandidate<T>& fetched, const DealtRun& run,
                                       const Scratch* scratch, bool counts) const {
    const int t = threadIdx.x, dealt = static_cast<int>(run.count);
    int place = t;
    if (dealt > 0) {
      if (t < dealt) place = static_cast<int>(run.place_of(keys, scratch, fetched.key));
      __syncthreads();  // the run has been read, and the chunk may take the place of its buckets
      if (t < dealt) keys[place] = fetched.key;
    }
    if (t < kChunkWords) chunk->gone[t] = chunk->kept[t] = 0;
    if (fetched.whole && place < count) put(place, fetched, counts);
  }

  __device__ __forceinline__ void put(int t, const FetchedCandidate<T>& of, bool counts) const {
    const Vec4<T> box = candidate_box(options, inputs, image, of.code, of.prior);
    chunk->box[t] = box;
    chunk->area[t] = options.rule.area(box);
    chunk->label[t] = of.label;
    const unsigned list =
        options.class_agnostic ? 0 : of.label - static_cast<uint32_t>(options.first_label);
    chunk->list[t] = list;
    if (table.chunk != nullptr) {
      atomicOr(&table.chunk[t / 32 * table.lists + static_cast<int>(list)], 1u << (t % 32));
    }
    if (counts) atomicAdd(&seen[list], 1u);
  }

  __device__ __forceinline__ void drop_beyond_top_k(int count) const {
    for (int t = threadIdx.x; t < count; t += blockDim.x) {
      const unsigned list = chunk->list[t];
      int64_t rank = seen[list];
      if (rank + t < options.top_k) continue;  // even if all before it are of its list
      for (int j = 0; j < t; j += 32) {
        rank += __popc(same_in_chunk(j / 32, t - j < 32 ? t - j : 32, list));
      }
      if (rank >= options.top_k) atomicOr(&chunk->gone[t / 32], 1u << (t % 32));
    }
    __syncthreads();
    for (int t = threadIdx.x; t < count; t += blockDim.x) {
      if (!bit(chunk->gone, t)) atomicAdd(&seen[chunk->list[t]], 1u);
    }
    __syncthreads();
  }

  // The kept boxes are dealt to blockDim / kChunk threads a candidate, 32 at a time.
  __device__ __forceinline__ void drop_suppressed(int count, int64_t num_kept) const {
    const int parts = static_cast<int>(blockDim.x) / kChunk, t = threadIdx.x % kChunk;
    if (t >= count) return;
    const Vec4<T> box = chunk->box[t];
    const T area = chunk->area[t];
    for (int64_t k = threadIdx.x / kChunk * 32; k < num_kept; k += 32 * parts) {
      const int size = static_cast<int>(num_kept - k < 32 ? num_kept - k : 32);
      const unsigned same = same_in_kept(static_cast<int>(k / 32), size, chunk->list[t]);
      if (suppressors(kept_list.boxes + k, kept_list.areas + k, same, box, area, chunk->list[t],
                      true) != 0) {
        atomicOr(&chunk->gone[t / 32], 1u << (t % 32));
        return;
      }
    }
  }

  static_assert(kChunkWords % 2 == 0, "rows of the mask go in pairs");
  // A warp takes 32 candidates and 32 that are not later at a time.
  __device__ __forceinline__ void build_mask(int count) const {
    constexpr int kTiles = kChunkWords * (kChunkWords + 1) / 2;
    const int lane = threadIdx.x % 32;
    for (int tile = threadIdx.x / 32; tile < kTiles; tile += blockDim.x / 32) {
      // Of a triangle: a short row and the one as far from the end have kChunkWords + 1 tiles.
      const int pair = tile / (kChunkWords + 1), rest = tile % (kChunkWords + 1);
      const bool shorter = rest <= pair;
      const int row = shorter ? pair : kChunkWords - 1 - pair, w = shorter ? rest : rest - pair - 1;
      const int t = 32 * row + lane;
      if (t >= count || bit(chunk->gone, t)) continue;
      const int size = count - 32 * w < 32 ? count - 32 * w : 32;
      unsigned same = same_in_chunk(w, size, chunk->list[t]) & ~chunk->gone[w];
      if (w == row) same &= low_bits(lane);
      chunk->mask[w * kChunk + t] =
          suppressors(chunk->box + 32 * w, chunk->area + 32 * w, same, chunk->box[t],
                      chunk->area[t], chunk->list[t], false);
    }
  }

  __device__ __forceinline__ void decide(int count) const {
    const int t = threadIdx.x;  // blockDim >= kChunk; whole warps
    bool open = t < count && !bit(chunk->gone, t);
    unsigned mask[kChunkWords];
#pragma unroll
    for (int w = 0; w < kChunkWords; ++w) {
      mask[w] = open && w <= t / 32 ? chunk->mask[w * kChunk + t] : 0;
    }
    do {
      bool blocked = false, waiting = false;
      if (open) {
#pragma unroll
        for (int w = 0; w < kChunkWords; ++w) {
          blocked |= (mask[w] & chunk->kept[w]) != 0;
          waiting |= (mask[w] & ~(chunk->kept[w] | chunk->gone[w])) != 0;
        }
      }
      __syncthreads();
      const unsigned kept = __ballot_sync(kFullWarp, open && !blocked && !waiting);
      const unsigned gone = __ballot_sync(kFullWarp, open && blocked);
      open = open && !blocked && waiting;
      if (t < kChunk && t % 32 == 0) {
        chunk->kept[t / 32] |= kept;
        chunk->gone[t / 32] |= gone;
      }
    } while (__syncthreads_or(
        open));  // nearly every chunk has a round to do: none is asked for before the first
  }

  __device__ __forceinline__ int64_t store(const CandidateKey<T>* keys, int count,
                                           int64_t num_kept) const {
    const int t = threadIdx.x;
    // A lane counts the bits of a word: a warp counts bits at an eighth of the speed at which it adds.
    const int lane = t % 32, own = t / 32;
    const unsigned kept = lane < kChunkWords ? __popc(chunk->kept[lane]) : 0;
    const unsigned all = warp_sum(kept);
    unsigned before = warp_sum(lane < own ? kept : 0);
    if (own < kChunkWords) before += __popc(chunk->kept[own] & ((1u << lane) - 1u));
    const int64_t place = num_kept + before;
    if (t < count && bit(chunk->kept, t) && place < options.rows) {
      kept_list.boxes[place] = chunk->box[t];
      kept_list.areas[place] = chunk->area[t];
      const unsigned list = chunk->list[t];
      kept_list.lists[place] = list;
      if (table.kept != nullptr) {
        atomicOr(&table.kept[place / 32 * table.lists + list], 1u << (place % 32));
      }
      write_row(options, inputs, outputs, image, place, keys[t], chunk->label[t], chunk->box[t]);
    }
    if (table.chunk != nullptr && t < count) {  // clear what put() has set
      store_relaxed(&table.chunk[t / 32 * table.lists + static_cast<int>(chunk->list[t])], 0);
    }
    __syncthreads();
    const int64_t total = num_kept + all;
    return total < options.rows ? total : options.rows;
  }
};

}  // namespace ssd_cuda
