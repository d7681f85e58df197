// The first panel of ranks, which nobody has thinned: every pair is tested, as bits, then one block decides.
//
//   pairs     a warp 32 boxes and 32 that may come before them, a lane a box: its word of the matrix, a bit for each of the
//             earlier 32 that would remove it
//   settle    a thread a box, 1024 of them at a time, each with its words in registers: rounds as in resolve.cuh, whose
//             word of 32 boxes is a warp here
//
// A round reads what is decided from shared memory; were the boxes decided where their pairs are found, by blocks that look at
// each other's states, each link of a chain would be a trip to L2 and back. Rounds are 2 to 6, 32 in a chain. On an H200 pairs took 2.7 us of 1024
// boxes and settle 5.9 of a dense scene, 2.9 of a sparse one; of 2048 6.4, 10.8 and 6.8.
//
// Memory, of a panel of P boxes: 8 T bytes read from L2 for each 4 written, P^2 / 16 bytes of bits in all, which one
// multiprocessor reads, 68 KB for 1024 boxes, and keeps: settle's block fills its registers, so that it waits until one is
// free. Work: 28 instructions a pair and lane, P^2 / 2 pairs, with every operation of the test: where doubles are slow (7.5,
// 8.6, 12.0) that is more than where a test ends at boxes that do not meet. The worst case is a chain in which each box
// removes the next one: 32 steps a word, one word after the other, about 3000 cycles a word.
#pragma once

#include "resolve.cuh"

namespace ssd_cuda {

constexpr int kNmsPairsBlock = 128;
constexpr int kNmsPairsWarps = kNmsPairsBlock / 32;
constexpr int kNmsSettleBlock = 1024;
constexpr int kNmsSettleWords = kNmsSettleBlock / 32;

// 32 boxes that may remove others.
template <typename T>
struct NmsEarlier {
  Vec4<T> boxes[32];
  T areas[32];
  int64_t classes[32];
};

// A bit for each of the 32 boxes that would remove the query's, of class `own`, if it came first. Called by a warp.
template <typename T>
__device__ uint32_t nms_removers(const NmsArgs<T>& args, const NmsQuery<T>& query,
                                 const NmsEarlier<T>& earlier, int64_t own) {
  constexpr int kAtOnce = 8;  // more would be code that every block waits for
  uint32_t removers = 0, unclear = 0;
#pragma unroll 1
  for (int first = 0; first < 32; first += kAtOnce) {
    uint32_t yes = 0, maybe = 0;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const auto sure =
          args.rule.sure(earlier.boxes[first + k], earlier.areas[first + k], query.box, query.area);
      yes |= sure.yes ? 1u << k : 0u, maybe |= sure.unclear ? 1u << k : 0u;
    }
    removers |= yes << first, unclear |= maybe << first;
  }
  for (; unclear != 0; unclear &= unclear - 1) {
    const int k = __ffs(static_cast<int>(unclear)) - 1;
    if (query.overlaps(args, earlier.boxes[k])) removers |= 1u << k;
  }
  if (!args.classes || removers == 0) return removers;
#pragma unroll
  for (int k = 0; k < 32; ++k) removers &= ~(earlier.classes[k] != own ? 1u << k : 0u);
  return removers;
}

// Word blockIdx.y of the panel against words of earlier boxes, a warp each.
template <typename T>
__global__ void __launch_bounds__(kNmsPairsBlock) nms_pairs_kernel(NmsArgs<T> args, int size) {
  after_previous_kernel();
  __shared__ NmsEarlier<T> shared[kNmsPairsWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(blockIdx.x) * kNmsPairsWarps + warp;
  if (column > row) return;
  NmsEarlier<T>& earlier = shared[warp];
  const NmsQuery<T> query(args, min(row * 32 + lane, size - 1));
  const int j = min(column * 32 + lane, size - 1);
  const Vec4<T> box = args.box(j);
  earlier.boxes[lane] = box;
  earlier.areas[lane] = args.rule.area(box);
  const int64_t own = args.class_of(query.rank);
  if (args.classes) earlier.classes[lane] = args.classes[j];
  __syncwarp();
  uint32_t removers = nms_removers(args, query, earlier, own);
  if (column == row) removers &= (1u << lane) - 1;
  args.pairs_of(row, column).removers[lane] = removers;
}

// Decides boxes from `first` on, a thread each; those before are decided. Called by the whole block.
template <typename T>
__device__ void nms_settle(const NmsArgs<T>& args, NmsBits& bits, int first, int size) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int i = first + t, begin = first / 32, w = begin + warp;
  const bool inside = i < size, there = w * 32 < size;
  const NmsWordPairs* const row = &args.pairs_of(w, begin);
  uint32_t own = 0, kept = 0;  // removers of its own word; some that are kept
  if (there) {
    own = row[warp].removers[lane];
#pragma unroll 8
    for (int v = -begin; v < 0; ++v) kept |= row[v].removers[lane] & bits.word(begin + v).kept;
  }
  uint32_t words[kNmsSettleWords];  // of each word before its own: removers that are not gone
  uint32_t pending = 0;             // all of them
#pragma unroll
  for (int v = 0; v < kNmsSettleWords; ++v) {
    words[v] = there && v < warp ? row[v].removers[lane] : 0u;
    pending |= words[v];
  }
  NmsWord word{__ballot_sync(kFullWarp, !inside), 0u, inside};
  if (lane == 0) bits.say(w, word.removed, word.kept);
  bool warp_open = there;
  while (true) {
    if (warp_open) {
      word = nms_decide_word(word, own, kept != 0, pending != 0);
      if (lane == 0) bits.say(w, word.removed, word.kept);
      warp_open = __any_sync(kFullWarp, word.open);
    }
    if (!__syncthreads_or(warp_open)) break;
    if (!warp_open) continue;
    constexpr int kAtOnce = 4;  // words; in most of them no box that is open has a remover
    pending = 0;
#pragma unroll
    for (int v = 0; v < kNmsSettleWords; v += kAtOnce) {
      uint32_t left = 0;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) left |= words[v + k];
      if (!__any_sync(kFullWarp, word.open && kept == 0 && left != 0)) continue;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const NmsSaid said = bits.word(begin + v + k);
        kept |= words[v + k] & said.kept;
        words[v + k] &= ~said.removed;
        pending |= words[v + k];
      }
    }
  }
  // It files nothing: one multiprocessor takes 2.5 us for a thousand places all over the bins.
  if (inside) args.set_state(i, word.kept >> lane & 1 ? NmsState::kKept : NmsState::kRemoved);
}

// One block: of as many threads as there are boxes, in whole groups of words.
template <typename T>
__global__ void __launch_bounds__(kNmsSettleBlock, 1) nms_settle_kernel(NmsArgs<T> args, int size) {
  after_previous_kernel();
  __shared__ NmsBits bits;
  for (int first = 0; first < size; first += static_cast<int>(blockDim.x)) {
    nms_settle(args, bits, first, size);
  }
}

template <typename T>
inline cudaError_t launch_nms_first_panel(const NmsArgs<T>& args, int size, cudaStream_t stream) {
  const auto words = static_cast<unsigned>(ceil_div(size, 32));
  const cudaError_t error = launch<Start::kAfter>(
      nms_pairs_kernel<T>, dim3(ceil_div(words, unsigned{kNmsPairsWarps}), words),
      dim3(kNmsPairsBlock), 0, stream, args, size);
  if (error != cudaSuccess) return error;
  const int threads = std::min(ceil_div(size, 128) * 128, kNmsSettleBlock);
  return launch(nms_settle_kernel<T>, dim3(1), dim3(static_cast<unsigned>(threads)), 0, stream,
                args, size);
}

}  // namespace ssd_cuda
