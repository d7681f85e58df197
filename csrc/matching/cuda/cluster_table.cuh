// What a block of cluster_match_kernel keeps in shared memory.
#pragma once

#include <bit>

#include "match_args.cuh"

namespace ssd_cuda {

constexpr int kClusterThreads = 512;
constexpr int kChunkTruths = 128;  // of an image that are looked at together
constexpr int kMostSlots = 512;    // a pair, slot * kChunkTruths + truth, is 16 bits
constexpr int kLists = 3;
static_assert(kMostSlots * kChunkTruths <= 1 << 16 && std::has_single_bit(unsigned{kMostSlots}));
static_assert(std::has_single_bit(unsigned{kChunkTruths}) &&
              std::has_single_bit(unsigned{kClusterThreads}));

// What stands in shared memory once for a chunk of truths.
template <typename T>
struct alignas(16) ChunkTable {
  Vec4<T> truths[kChunkTruths];
  TopKey::Bits keys[2][kChunkTruths];  // after the first look and the second: read by other blocks
  T reached[kChunkTruths];             // the best overlap after the first look
  int32_t tops[kChunkTruths];          // the pair of the largest bound, as top_of(); 0: none
  uint32_t zeros[kChunkTruths];        // the nearest slot of bound 0, as nearness(); 0: none
  unsigned listed[kLists];
};

// The same for each group of the block: where a prior stands, 32 * slot + lane, is its place.
template <typename T>
struct GroupTable {
  TopKey::Bits* bests;  // [places]: the best truth
  PriorGroup<T>* groups;
  int32_t *claims,
      *renames;  // [places]: the last truth whose best prior it is; claims: of those that are forced
  T* bounds;     // [slots << bits], of pairs: slot << bits | truth
  uint16_t* pairs;  // the same: a list of them

  static constexpr std::size_t kSlotBytes = kGroupPriors * (sizeof(TopKey::Bits) + 8) +
                                            sizeof(PriorGroup<T>) + kChunkTruths * (sizeof(T) + 2);

  __device__ __forceinline__ GroupTable(unsigned char* memory, int slots) {
    const auto take = [&](auto*& part, int count) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(memory);
      memory += count * sizeof(*part);
    };
    take(bests, slots * kGroupPriors);
    take(groups, slots);
    take(claims, slots * kGroupPriors);
    take(renames, slots * kGroupPriors);
    take(bounds, slots * kChunkTruths);
    take(pairs, slots * kChunkTruths);
  }
};

}  // namespace ssd_cuda
