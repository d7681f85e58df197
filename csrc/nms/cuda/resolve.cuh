// The greedy decision of the boxes of a panel that nobody has decided yet, from their lists of earlier suppressors: rounds
// in which a box with a kept suppressor goes and a box whose suppressors are all gone stays. The greedy answer is the
// only one that satisfies both, so neither the order of the lists nor that of threads matters.
//
// A warp takes 32 neighbouring boxes, a word, and settles it as far as the other words are known; so a round settles at
// least the first word that is open, and more where a warp sees what another has settled in the same round. A list that
// is not whole keeps its box open until all that are listed in other words are gone; then the whole warp searches again
// and lists what is open.
#pragma once

#include "suppressors.cuh"

namespace ssd_cuda {

constexpr int kNmsMostWords = kNmsMostPanel / 32;
constexpr int kNmsResolveBlock = 256;
constexpr int kNmsResolveWarps = kNmsResolveBlock / 32;

// A bit a box of the panel.
struct NmsBits {
  uint32_t removed[kNmsMostWords], kept[kNmsMostWords];

  // What is said of box i so far.
  __device__ NmsState state(int i) const {
    const uint32_t bit = 1u << (i % 32);
    if (load_relaxed(removed + i / 32) & bit) return NmsState::kRemoved;
    return load_relaxed(kept + i / 32) & bit ? NmsState::kKept : NmsState::kOpen;
  }
};

// The open boxes of one word of 32, a lane each, decided as far as the other words are known.
struct NmsWord {
  uint32_t removed, kept;  // the same in every lane
  bool open;
};
__device__ __forceinline__ NmsWord nms_decide_word(NmsWord word, uint32_t removers, bool dead,
                                                   bool blocked) {
  while (true) {
    const bool goes = word.open && (dead || (removers & word.kept) != 0);
    const bool stays = word.open && !goes && !blocked && (removers & ~word.removed) == 0;
    const uint32_t gone = __ballot_sync(kFullWarp, goes), kept = __ballot_sync(kFullWarp, stays);
    if ((gone | kept) == 0) return word;
    word.removed |= gone, word.kept |= kept;
    word.open = word.open && !goes && !stays;
  }
}

// What the list of box i says now. removers: those of its own word that are open.
struct NmsVerdict {
  uint32_t removers = 0;
  bool dead = false, blocked = false, more = false;
};
template <typename T>
__device__ NmsVerdict nms_examine(const NmsArgs<T>& args, const NmsBits& bits, int i) {
  NmsVerdict verdict;
  const int found = args.found[i];
  verdict.more = found > kNmsList;
  const int count = min(found, kNmsList);
  for (int slot = 0; slot < count && !verdict.dead; ++slot) {
    const int j = args.listed(slot, i);
    const NmsState state = bits.state(j);
    verdict.dead = state == NmsState::kKept;
    if (state != NmsState::kOpen) continue;
    if (j / 32 == i / 32) {
      verdict.removers |= 1u << (j % 32);
    } else {
      verdict.blocked = true;
    }
  }
  return verdict;
}

// Decides what can be decided of word w. list: [kNmsList] of the warp. Whether the box of this lane is open still.
template <bool kFirst, typename T>
__device__ bool nms_resolve_word(const NmsArgs<T>& args, NmsBits& bits, int32_t* list,
                                 const NmsPanel& panel, int w) {
  const int lane = static_cast<int>(threadIdx.x) % 32, i = w * 32 + lane;
  NmsWord word{load_relaxed(bits.removed + w), load_relaxed(bits.kept + w), false};
  word.open = !(((word.removed | word.kept) >> lane) & 1);
  NmsVerdict verdict;
  if (word.open) verdict = nms_examine(args, bits, i);
  const bool search = verdict.more && !verdict.dead && !verdict.blocked;
  uint32_t searches = __ballot_sync(kFullWarp, search);
  for (; searches != 0; searches &= searches - 1) {
    const int at = w * 32 + __ffs(static_cast<int>(searches)) - 1;
    const auto status = [&](int64_t j) { return bits.state(static_cast<int>(j - panel.begin)); };
    NmsFound found;
    for (bool by_ranks = false;; by_ranks = true) {
      found = nms_find_suppressors<32, kFirst>(true, args, list, panel, panel.begin + at, status,
                                               by_ranks);
      const bool elsewhere = lane < found.count && list[lane] / 32 != w;
      // Else they are all of this word, fewer than a list holds, and some were found more than once.
      if (!found.more || by_ranks || __any_sync(kFullWarp, elsewhere)) break;
    }
    if (at != i) continue;
    verdict.dead = found.removed;
    verdict.more = found.more;
    verdict.removers = 0;
    args.found[i] = found.count + (found.more ? 1 : 0);
    for (int slot = 0; slot < found.count; ++slot) {
      const int j = list[slot];
      args.listed(slot, i) = j;
      if (j / 32 == w) verdict.removers |= 1u << (j % 32);
      if (j / 32 != w) verdict.blocked = true;
    }
  }
  word = nms_decide_word(word, verdict.removers, verdict.dead, verdict.blocked || verdict.more);
  if (lane == 0) {
    store_relaxed(bits.removed + w, word.removed);
    store_relaxed(bits.kept + w, word.kept);
  }
  return word.open;
}

// Decides the open boxes of the panel. Called by a whole block of kNmsResolveBlock threads; lists: [kNmsResolveWarps] of
// kNmsList, shared.
template <bool kFirst, typename T>
__device__ void nms_resolve(const NmsArgs<T>& args, NmsBits& bits, int32_t* lists,
                            const NmsPanel& panel) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int64_t begin = panel.begin;
  const int size = static_cast<int>(panel.end - begin), words = ceil_div(size, 32);
  for (int w = warp; w < words; w += kNmsResolveWarps) {
    const int i = w * 32 + lane;
    const NmsState state = i < size ? args.state(begin + i) : NmsState::kRemoved;
    const uint32_t kept = __ballot_sync(kFullWarp, state == NmsState::kKept);
    const uint32_t removed = __ballot_sync(kFullWarp, state == NmsState::kRemoved);
    if (lane == 0) bits.kept[w] = kept, bits.removed[w] = removed;
  }
  bool any_open = true;
  while (any_open) {
    __syncthreads();
    bool open = false;
    for (int w = warp; w < words; w += kNmsResolveWarps) {
      const uint32_t decided = load_relaxed(bits.removed + w) | load_relaxed(bits.kept + w);
      // The word is this warp's alone, so its lanes agree.
      if (decided != 0xffffffffu) {
        open = nms_resolve_word<kFirst>(args, bits, lists + warp * kNmsList, panel, w) || open;
      }
    }
    any_open = __syncthreads_or(open);
  }
  for (int i = t; i < size; i += kNmsResolveBlock) {
    if (args.state(begin + i) != NmsState::kOpen) continue;
    if (bits.state(i) == NmsState::kKept) {
      nms_keep(args, begin + i);
    } else {
      args.set_state(begin + i, NmsState::kRemoved);
    }
  }
}

}  // namespace ssd_cuda
