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

// What is said so far of the 32 boxes of a word, a bit each.
struct alignas(8) NmsSaid {
  uint32_t removed, kept;
};

// Of every word of the panel. A word is read while another warp writes it, so always as a whole.
struct NmsBits {
  uint64_t words[kNmsMostWords];

  __device__ NmsSaid word(int w) const {
    const uint64_t both = load_relaxed(words + w);
    return {static_cast<uint32_t>(both), static_cast<uint32_t>(both >> 32)};
  }
  __device__ void say(int w, uint32_t removed, uint32_t kept) {
    store_relaxed(words + w, uint64_t{kept} << 32 | removed);
  }
  __device__ NmsState state(int i) const {
    const NmsSaid said = word(i / 32);
    const uint32_t bit = 1u << (i % 32);
    return said.removed & bit ? NmsState::kRemoved
           : said.kept & bit  ? NmsState::kKept
                              : NmsState::kOpen;
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
  verdict.more = (found & kNmsMore) != 0;
  const int count = found & (kNmsMore - 1);
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
template <typename T>
__device__ bool nms_resolve_word(const NmsArgs<T>& args, NmsBits& bits, int32_t* list,
                                 const NmsPanel& panel, int w) {
  const int lane = static_cast<int>(threadIdx.x) % 32, i = w * 32 + lane;
  const NmsSaid said = bits.word(w);
  NmsWord word{said.removed, said.kept, false};
  word.open = !(((word.removed | word.kept) >> lane) & 1);
  NmsVerdict verdict;
  if (word.open) verdict = nms_examine(args, bits, i);
  const bool search = verdict.more && !verdict.dead && !verdict.blocked;
  uint32_t searches = __ballot_sync(kFullWarp, search);
  for (; searches != 0; searches &= searches - 1) {
    const int at = w * 32 + __ffs(static_cast<int>(searches)) - 1;
    // Open boxes of this word are bits, not listed: those that the bins show twice could fill a list.
    uint32_t own = 0;
    const auto status = [&](int64_t j) {
      const int place = static_cast<int>(j - panel.begin);
      const NmsState state = bits.state(place);
      if (state != NmsState::kOpen || place / 32 != w) return state;
      own |= 1u << (place % 32);
      return NmsState::kRemoved;
    };
    const NmsFound found =
        nms_find_suppressors<32>(true, args, list, panel, panel.begin + at, status);
    for (int offset = 16; offset > 0; offset /= 2) own |= __shfl_xor_sync(kFullWarp, own, offset);
    if (at != i) continue;
    verdict = {own, found.removed, found.count > 0, false};
    // Those of its word are listed where there is no other; else it is searched for again when the others are gone.
    const bool more = found.count > 0 && (found.more || own != 0);
    args.found[i] = (found.count > 0 ? found.count : __popc(own)) | (more ? kNmsMore : 0);
    for (int slot = 0; slot < found.count; ++slot) args.listed(slot, i) = list[slot];
    if (found.count > 0) continue;
    for (int slot = 0; own != 0; ++slot, own &= own - 1) {
      args.listed(slot, i) = w * 32 + __ffs(static_cast<int>(own)) - 1;
    }
  }
  word = nms_decide_word(word, verdict.removers, verdict.dead, verdict.blocked || verdict.more);
  if (lane == 0) bits.say(w, word.removed, word.kept);
  return word.open;
}

// Decides the open boxes of the panel. Called by a whole block of kNmsResolveBlock threads; lists: [kNmsResolveWarps] of
// kNmsList, shared.
template <typename T>
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
    if (lane == 0) bits.say(w, removed, kept);
  }
  bool any_open = true;
  while (any_open) {
    __syncthreads();
    bool open = false;
    for (int w = warp; w < words; w += kNmsResolveWarps) {
      const NmsSaid said = bits.word(w);
      // The word is this warp's alone, so its lanes agree.
      if ((said.removed | said.kept) != 0xffffffffu) {
        open = nms_resolve_word(args, bits, lists + warp * kNmsList, panel, w) || open;
      }
    }
    any_open = __syncthreads_or(open);
  }
  for (int i = t; i < size; i += kNmsResolveBlock) {
    if (args.state(begin + i) != NmsState::kOpen) continue;
    if (bits.state(i) == NmsState::kKept) {
      nms_keep(args, panel, begin + i);
    } else {
      args.set_state(begin + i, NmsState::kRemoved);
    }
  }
}

}  // namespace ssd_cuda
