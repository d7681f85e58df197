// The greedy decision of a panel whose boxes know their earlier suppressors: rounds in which a box with a kept suppressor
// goes and a box whose suppressors are all gone stays. The greedy answer is the only one that satisfies both, so neither
// the order of the lists nor that of threads matters.
//
// A warp takes 32 neighbouring boxes, a word, and settles it as far as the other words are known; so a round settles at
// least the first word that is open: at most a round a word. A list begins with the suppressor of the lowest rank, the most
// likely to be kept: in a crowd one load decides a box. It holds kNmsListed in all. A box with more is kept only after a new
// search by the whole warp, when all that are listed in other words are gone; it lists what is open then.
#pragma once

#include "search.cuh"

namespace ssd_cuda {

constexpr int kNmsResolveBlock = 512;  // threads
constexpr int kNmsMostWords = kNmsMostPanel / 32;
constexpr int kNmsResolveWarps = kNmsResolveBlock / 32;

// A bit a box of the panel; next is what a round makes of it.
struct NmsBits {
  uint32_t removed[kNmsMostWords], kept[kNmsMostWords];
  uint32_t next_removed[kNmsMostWords], next_kept[kNmsMostWords];

  __device__ static bool at(const uint32_t* words, int i) {
    return (words[i / 32] >> (i % 32)) & 1;
  }
};

// What a search has found: how many suppressors, and the lowest rank of them in the panel.
struct NmsFound {
  int count, lowest;
};

// Lists a suppressor of box i of the panel. found is shared by the team that searches.
template <typename T>
__device__ void nms_note(const NmsArgs<T>& args, NmsFound& found, int64_t i, int suppressor) {
  const int slot = 1 + atomicAdd(&found.count, 1);
  if (slot < kNmsList) args.listed(slot, i) = suppressor;
  atomicMin(&found.lowest, suppressor);
}
// After the search, by one lane.
template <typename T>
__device__ void nms_end_notes(const NmsArgs<T>& args, const NmsFound& found, int64_t i) {
  args.found[i] = found.count;
  if (found.count > 0) args.listed(0, i) = found.lowest;
}

// A team lists the earlier boxes of the panel that would remove box p, those that may(place in the panel) still.
template <int kLanes, typename T, typename May>
__device__ void nms_list_suppressors(const NmsArgs<T>& args, NmsFound& found, int64_t begin,
                                     int64_t p, const May& may) {
  const NmsQuery<T> query = nms_query(args, p, args.panel_heads, args.plan.panel_heads, begin, p);
  const bool first = NmsTeam<kLanes>::lane() == 0;
  if (first) found = {0, kNmsMostPanel};
  __syncwarp(NmsTeam<kLanes>::mask());
  nms_search<kLanes>(
      args, query, [&](int64_t j) { return args.state(j) == NmsState::kOpen; },
      [&](int64_t j) {
        const int place = static_cast<int>(j - begin);
        if (j < p && may(place) && query.removed_by(args, j))
          nms_note(args, found, p - begin, place);
        return false;
      });
  __syncwarp(NmsTeam<kLanes>::mask());
  if (first) nms_end_notes(args, found, p - begin);
  __syncwarp(NmsTeam<kLanes>::mask());
}

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
    const uint32_t gone = __ballot_sync(0xffffffffu, goes),
                   kept = __ballot_sync(0xffffffffu, stays);
    if ((gone | kept) == 0) return word;
    word.removed |= gone, word.kept |= kept;
    word.open = word.open && !goes && !stays;
  }
}

// What the list of box i says now. removers: those of its own word that are open.
struct NmsVerdict {
  uint32_t removers = 0;
  bool dead = false, blocked = false, cut = false;
};
template <typename T>
__device__ NmsVerdict nms_examine(const NmsArgs<T>& args, const NmsBits& bits, int i) {
  NmsVerdict verdict;
  const int found = args.found[i];
  verdict.cut = found > kNmsListed;
  const int slots = found == 1 ? 1 : min(found + 1, kNmsList);  // one alone is the lowest
  constexpr int kAtOnce = 4;                                    // loads that wait together
  for (int first = 0; first < slots && !verdict.dead; first += kAtOnce) {
    int listed[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      listed[k] = first + k < slots ? args.listed(first + k, i) : -1;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int j = listed[k];
      if (j < 0 || NmsBits::at(bits.removed, j)) continue;
      verdict.dead = verdict.dead || NmsBits::at(bits.kept, j);
      if (j / 32 == i / 32) {
        verdict.removers |= 1u << (j % 32);
      } else {
        verdict.blocked = true;
      }
    }
  }
  return verdict;
}

// One round over the words of a warp: bits to next. Whether a box of this lane is open still.
template <typename T>
__device__ bool nms_round(const NmsArgs<T>& args, NmsBits& bits, NmsFound& found, int64_t begin,
                          int words) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  bool still_open = false;
  for (int first = warp; first < words; first += 32 * kNmsResolveWarps) {
    const int mine = first + lane * kNmsResolveWarps;
    uint32_t open_words =
        __ballot_sync(0xffffffffu, mine < words && ~(bits.removed[mine] | bits.kept[mine]) != 0);
    for (; open_words != 0; open_words &= open_words - 1) {
      const int w = first + (__ffs(static_cast<int>(open_words)) - 1) * kNmsResolveWarps;
      NmsWord word{bits.removed[w], bits.kept[w], false};
      word.open = !(((word.removed | word.kept) >> lane) & 1);
      NmsVerdict verdict;
      if (word.open) verdict = nms_examine(args, bits, w * 32 + lane);
      const bool search = verdict.cut && !verdict.dead && !verdict.blocked;
      uint32_t searches = __ballot_sync(0xffffffffu, search);
      for (; searches != 0; searches &= searches - 1) {
        const int i = w * 32 + __ffs(static_cast<int>(searches)) - 1;
        nms_list_suppressors<32>(args, found, begin, begin + i,
                                 [&](int j) { return !NmsBits::at(bits.removed, j); });
      }
      if (search) verdict = nms_examine(args, bits, w * 32 + lane);
      word = nms_decide_word(word, verdict.removers, verdict.dead, verdict.blocked || verdict.cut);
      if (lane == 0) bits.next_removed[w] = word.removed, bits.next_kept[w] = word.kept;
      still_open = still_open || word.open;
    }
  }
  return still_open;
}

// Decides the open boxes of the panel [begin, end). Called by a whole block of kNmsResolveBlock threads.
template <typename T>
__device__ void nms_resolve(const NmsArgs<T>& args, int64_t begin, int64_t end) {
  __shared__ NmsBits bits;
  __shared__ NmsFound found[kNmsResolveWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int size = static_cast<int>(end - begin), words = ceil_div(size, 32);
  for (int w = warp; w < words; w += kNmsResolveWarps) {
    const int i = w * 32 + lane;
    const NmsState state = i < size ? args.state(begin + i) : NmsState::kRemoved;
    const bool free = state == NmsState::kOpen && args.found[i] == 0;
    const uint32_t kept = __ballot_sync(0xffffffffu, free || state == NmsState::kKept);
    const uint32_t removed = __ballot_sync(0xffffffffu, state == NmsState::kRemoved);
    if (lane == 0) {
      bits.kept[w] = bits.next_kept[w] = kept;
      bits.removed[w] = bits.next_removed[w] = removed;
    }
  }
  __syncthreads();
  bool any_open = true;
  while (any_open) {
    any_open = __syncthreads_or(nms_round(args, bits, found[warp], begin, words));
    for (int w = t; w < words; w += kNmsResolveBlock) {
      bits.removed[w] = bits.next_removed[w], bits.kept[w] = bits.next_kept[w];
    }
    __syncthreads();
  }
  for (int i = t; i < size; i += kNmsResolveBlock) {
    args.set_state(begin + i, NmsBits::at(bits.kept, i) ? NmsState::kKept : NmsState::kRemoved);
  }
}

}  // namespace ssd_cuda
