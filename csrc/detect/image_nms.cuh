// NMS of one image by one CTA, in score order, kChunk candidates at a time.
//
// A chunk: decode the boxes; drop those beyond their list's top_k and those that a kept box suppresses; build the
// bit mask of who suppresses whom within the chunk; then decide in rounds. A candidate is kept once all that could
// suppress it are gone, and gone once one of them is kept: the greedy result, reached in as many rounds as the
// longest chain (a handful in practice), the same for any order of threads.
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
  unsigned
      mask[kChunkWords * kChunk];  // [w][t]: bit j - 32 w: an earlier j of t's list suppresses t
  unsigned gone[kChunkWords];
  unsigned kept[kChunkWords];
};

template <typename T, typename S>
struct ImageNms {
  const DetectOptions<T>& options;
  const DetectInputs<T, S>& inputs;
  const DetectOutputs<T>& outputs;
  int64_t image;
  KeptList<T> kept_list;
  unsigned* seen;  // [lists] candidates that each list has had, or null when top_k cannot bind
  ChunkState<T>* chunk;

  // All threads. keys: the next `count` <= kChunk candidates in order; num_kept: kept so far. Returns the new number.
  __device__ __forceinline__ int64_t add(const CandidateKey<T>* keys, int count,
                                         int64_t num_kept) const {
    load(keys, count);
    __syncthreads();
    drop_beyond_top_k(count);
    drop_suppressed(count, num_kept);
    __syncthreads();
    build_mask(count);
    __syncthreads();
    decide(count);
    return store(keys, count, num_kept);
  }

 private:
  __device__ __forceinline__ static bool bit(const unsigned* words, int i) {
    return words[i / 32] >> (i % 32) & 1u;
  }

  __device__ __forceinline__ void load(const CandidateKey<T>* keys, int count) const {
    for (int t = threadIdx.x; t < kChunk; t += blockDim.x) {
      if (t % 32 == 0) chunk->gone[t / 32] = chunk->kept[t / 32] = 0;
      if (t >= count) continue;
      const int64_t index = candidate_index(keys[t]), label = index / inputs.num_priors;
      const Vec4<T> box = candidate_box(options, inputs, image, index - label * inputs.num_priors);
      chunk->box[t] = box;
      chunk->area[t] = options.rule.area(box);
      chunk->list[t] =
          options.class_agnostic ? 0 : static_cast<unsigned>(label - options.first_label);
    }
  }

  __device__ __forceinline__ void drop_beyond_top_k(int count) const {
    if (seen == nullptr) return;
    for (int t = threadIdx.x; t < count; t += blockDim.x) {
      const unsigned list = chunk->list[t];
      int64_t rank = seen[list];
      if (rank + t < options.top_k) continue;  // even if all before it are of its list
      for (int j = 0; j < t; ++j) rank += chunk->list[j] == list;
      if (rank >= options.top_k) atomicOr(&chunk->gone[t / 32], 1u << (t % 32));
    }
    __syncthreads();
    for (int t = threadIdx.x; t < count; t += blockDim.x) {
      if (!bit(chunk->gone, t)) atomicAdd(&seen[chunk->list[t]], 1u);
    }
    __syncthreads();
  }

  // The kept boxes are dealt to blockDim / kChunk threads a candidate.
  __device__ __forceinline__ void drop_suppressed(int count, int64_t num_kept) const {
    const int parts = static_cast<int>(blockDim.x) / kChunk, t = threadIdx.x % kChunk;
    if (t >= count) return;
    const Vec4<T> box = chunk->box[t];
    const T area = chunk->area[t];
    const unsigned list = chunk->list[t];
    for (int64_t k = threadIdx.x / kChunk; k < num_kept; k += parts) {
      if (kept_list.lists[k] == list &&
          options.rule(kept_list.boxes[k], kept_list.areas[k], box, area)) {
        atomicOr(&chunk->gone[t / 32], 1u << (t % 32));
        return;
      }
    }
  }

  __device__ __forceinline__ void build_mask(int count) const {
    for (int item = threadIdx.x; item < kChunk * kChunkWords; item += blockDim.x) {
      const int t = item % kChunk, w = item / kChunk;
      unsigned word = 0;
      if (t < count && !bit(chunk->gone, t)) {
        const Vec4<T> box = chunk->box[t];
        const T area = chunk->area[t];
        const unsigned list = chunk->list[t];
        const int end = t < 32 * w + 32 ? t : 32 * w + 32;
        for (int j = 32 * w; j < end; ++j) {
          if (chunk->list[j] == list && options.rule(chunk->box[j], chunk->area[j], box, area)) {
            word |= 1u << (j - 32 * w);
          }
        }
        word &= ~chunk->gone[w];
      }
      chunk->mask[w * kChunk + t] = word;
    }
  }

  __device__ __forceinline__ void decide(int count) const {
    const int t = threadIdx.x;  // blockDim >= kChunk; whole warps
    bool open = t < count && !bit(chunk->gone, t);
    while (__syncthreads_or(open)) {
      bool blocked = false, waiting = false;
      if (open) {
        for (int w = 0; w < kChunkWords; ++w) {
          const unsigned word = chunk->mask[w * kChunk + t];
          blocked |= (word & chunk->kept[w]) != 0;
          waiting |= (word & ~(chunk->kept[w] | chunk->gone[w])) != 0;
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
    }
  }

  __device__ __forceinline__ int64_t store(const CandidateKey<T>* keys, int count,
                                           int64_t num_kept) const {
    const int t = threadIdx.x;
    int before = 0, all = 0;
    for (int w = 0; w < kChunkWords; ++w) {
      const unsigned word = chunk->kept[w];
      all += __popc(word);
      if (w < t / 32) before += __popc(word);
      if (w == t / 32) before += __popc(word & ((1u << (t % 32)) - 1u));
    }
    const int64_t place = num_kept + before;
    if (t < count && bit(chunk->kept, t) && place < options.rows) {
      kept_list.boxes[place] = chunk->box[t];
      kept_list.areas[place] = chunk->area[t];
      kept_list.lists[place] = chunk->list[t];
      write_row(options, inputs, outputs, image, place, keys[t], chunk->box[t]);
    }
    __syncthreads();
    const int64_t total = num_kept + all;
    return total < options.rows ? total : options.rows;
  }
};

}  // namespace ssd_cuda
