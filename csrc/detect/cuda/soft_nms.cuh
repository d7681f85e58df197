// Soft-NMS: a CTA per (image, list), then one kernel that ranks the results of all lists.
//
// soft_nms_kernel scans the columns of its list (two loads a row where nothing can pass), sorts the best top_k and then
// chooses one candidate after the other: the best score, ties to the earlier one; the others decay as
// soft_nms_rule.h says. rank_kernel gives every chosen key its row by counting the smaller keys of the other lists: no
// sort over lists, no atomics. Global memory: per list, `capacity` keys twice and 24 bytes a candidate.
#pragma once

#include "scan.cuh"

namespace ssd_cuda {

constexpr int kSoftThreads = 256;
constexpr int kSoftWarps = kSoftThreads / 32;
constexpr int kRankBlock = 256;

// Scratch of soft-NMS; [B * lists] rows of each.
template <typename T>
struct SoftScratch {
  CandidateKey<T>* pool;    // [capacity]
  CandidateKey<T>* chosen;  // [capacity] sorted
  Vec4<T>* boxes;           // [keep]
  T* areas;                 // [keep]
  T* scores;                // [keep], NaN when gone
  int64_t* counts;          // [1]
  int64_t keep;
  unsigned capacity;
};

template <typename T>
struct SoftBest {
  T score[kSoftWarps];
  unsigned index[kSoftWarps];
};

// All threads: the index of the best score among n, the lower one on ties; n when all are gone.
template <typename T>
__device__ __forceinline__ unsigned best_candidate(const T* scores, unsigned n,
                                                   SoftBest<T>* shared) {
  T best = -INFINITY;
  unsigned index = n;
  for (unsigned i = threadIdx.x; i < n; i += kSoftThreads) {
    if (scores[i] == scores[i] && (index == n || scores[i] > best)) best = scores[i], index = i;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const T score = __shfl_xor_sync(kFullWarp, best, offset);
    const unsigned other = __shfl_xor_sync(kFullWarp, index, offset);
    if (other != n && (index == n || score > best || (score == best && other < index))) {
      best = score, index = other;
    }
  }
  if (threadIdx.x % 32 == 0)
    shared->score[threadIdx.x / 32] = best, shared->index[threadIdx.x / 32] = index;
  __syncthreads();
  for (int w = 0; w < kSoftWarps; ++w) {
    const T score = shared->score[w];
    const unsigned other = shared->index[w];
    if (other != n && (index == n || score > best || (score == best && other < index))) {
      best = score, index = other;
    }
  }
  __syncthreads();
  return index;
}

template <typename T, typename S>
__global__ void __launch_bounds__(kSoftThreads, 1)
    soft_nms_kernel(DetectOptions<T> options, DetectInputs<T, S> inputs, SoftScratch<T> scratch) {
  after_previous_kernel();
  __shared__ PoolState<T> pool_state, chosen_state;
  __shared__ SoftBest<T> shared_best;
  const int64_t lists = options.lists(), row = blockIdx.x, image = row / lists, list = row % lists;
  const int64_t capacity = scratch.capacity, first = row * scratch.keep;
  const Pool<T, 0> pool{scratch.pool + row * capacity, scratch.capacity,
                        static_cast<unsigned>(scratch.keep), &pool_state, nullptr};
  if (threadIdx.x == 0) pool.reset();
  __syncthreads();
  const int64_t label = options.class_agnostic ? options.first_label : options.first_label + list;
  const ScanRange<T> range{.image = image,
                           .first_row = 0,
                           .last_row = inputs.num_priors,
                           .first_label = label,
                           .last_label = options.class_agnostic ? options.last_label : label + 1,
                           .after_any = false,
                           .after = 0,
                           .seen = nullptr};
  RowScan<T, S>{options, inputs, range}.fill(pool);
  pool.sort();
  const unsigned n =
      pool_state.count < scratch.keep ? pool_state.count : static_cast<unsigned>(scratch.keep);

  Vec4<T>* boxes = scratch.boxes + first;
  T *areas = scratch.areas + first, *scores = scratch.scores + first;
  for (unsigned i = threadIdx.x; i < n; i += kSoftThreads) {
    boxes[i] =
        candidate_box(options, inputs, image, candidate_index(pool.keys[i]) % inputs.num_priors);
    areas[i] = options.rule.area(boxes[i]);
    scores[i] = candidate_score(pool.keys[i]);
  }
  __syncthreads();
  CandidateKey<T>* chosen = scratch.chosen + row * capacity;
  const SuppressRule<T> rule = options.rule_of(list);
  const T score_threshold = options.score_threshold_of(label);
  unsigned count = 0;
  for (; count < n && count < options.rows; ++count) {
    const unsigned best = best_candidate(scores, n, &shared_best);
    if (best == n) break;
    const Vec4<T> box = boxes[best];
    const T area = areas[best], score = scores[best];
    if (threadIdx.x == 0) chosen[count] = candidate_key(score, candidate_index(pool.keys[best]));
    __syncthreads();  // everyone has read scores[best]
    for (unsigned i = threadIdx.x; i < n; i += kSoftThreads) {
      const T s = options.soft.after(scores[i], box, area, boxes[i], areas[i], rule);
      scores[i] = i != best && s > score_threshold ? s : T(NAN);
    }
    __syncthreads();
  }
  const Pool<T, 0> sorted{chosen, scratch.capacity, scratch.capacity, &chosen_state, nullptr};
  if (threadIdx.x == 0) {
    chosen_state.count = count;
    scratch.counts[row] = count;
  }
  __syncthreads();
  sorted.sort();  // a decayed score can tie with a later candidate of a lower index
}

// One thread per key of an image, or per row of padding.
template <typename T, typename S>
__global__ void __launch_bounds__(kRankBlock)
    rank_kernel(DetectOptions<T> options, DetectInputs<T, S> inputs, DetectOutputs<T> outputs,
                SoftScratch<T> scratch, int64_t blocks_per_image) {
  after_previous_kernel();
  const int64_t lists = options.lists(), image = blockIdx.x / blocks_per_image;
  const int64_t item = blockIdx.x % blocks_per_image * kRankBlock + threadIdx.x;
  const int64_t *counts = scratch.counts + image * lists, capacity = scratch.capacity;
  const CandidateKey<T>* keys = scratch.chosen + image * lists * capacity;
  int64_t total = 0;
  for (int64_t l = 0; l < lists; ++l) total += counts[l];
  if (item == 0) outputs.counts[image] = total < options.rows ? total : options.rows;
  if (item >= total && item < options.rows) write_padding(options, outputs, image, item);
  const int64_t list = item / scratch.keep, place = item % scratch.keep;
  if (list >= lists || place >= counts[list]) return;
  const CandidateKey<T> key = keys[list * capacity + place];
  int64_t rank = place;
  for (int64_t l = 0; l < lists && rank < options.rows; ++l) {
    if (l == list) continue;
    int64_t low = 0, high = counts[l];
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[l * capacity + middle] < key)
        low = middle + 1;
      else
        high = middle;
    }
    rank += low;
  }
  if (rank >= options.rows) return;
  const int64_t prior = candidate_index(key) % inputs.num_priors;
  write_row(options, inputs, outputs, image, rank, key,
            candidate_box(options, inputs, image, prior));
}

}  // namespace ssd_cuda
