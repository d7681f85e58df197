// Matching of ragged ground truth with priors, without an IoU matrix.
//
//   match_kernel   code of each prior by threshold; best prior of each truth
//   force_kernel   what the truths are owed whatever their IoU (in force.cuh)
//
// match_kernel: one thread a prior, a block 256 priors of one image; the image's truths pass through shared
// memory in tiles, so there may be any number of them. A thread keeps its best truth in registers. Per truth
// a warp finds its best prior by a maximum over ordered IoU bits and a ballot for the lowest (or highest)
// lane; the block's warps meet in shared memory and one 64-bit atomicMax of (IoU bits, prior) per block and
// truth goes to global memory: no order of arrival changes the result.
//
// Where the boxes do not touch, the IoU is exactly 0 and no division is done, provided both areas allow that
// conclusion (finite truth of positive area, prior of area >= 0).
//
// Reads 16 B a prior and 16 B a truth per block, writes 4 B a prior. No host sync: the offsets stay on the
// card. Bounds: priors < 2^31 (the prior's half of the 64 bits), truths of an image < 2^30 (a flag in codes).
#pragma once

#include "../common/launch.cuh"
#include "../common/ordered_key.h"
#include "match_rule.h"

namespace ssd_cuda {

constexpr int kMatchBlock = 256;
constexpr int kMatchWarps = kMatchBlock / 32;
constexpr int kTruthTile = 128;
constexpr unsigned kFullWarp = 0xffffffffu;

using PackedTop = unsigned long long;  // 0: none seen

template <typename T>
struct MatchArgs {
  const T* boxes;          // [rows, 4]
  const int32_t* offsets;  // [batch + 1]
  const T* priors;         // [num_priors, 4], or [batch, num_priors, 4]
  int64_t rows, batch, num_priors;
  bool per_image;  // priors have the batch dimension
  MatchRule<T> rule;
  PackedTop* packed;   // [rows], zero before the launch; used where T is float
  BestPrior<T>* tops;  // [rows], scratch of the forced matches
  int32_t* codes;      // [batch, num_priors]

  __device__ __forceinline__ Vec4<T> truth(int64_t row) const {
    return reinterpret_cast<const Vec4<T>*>(boxes)[row];
  }
  __device__ __forceinline__ Vec4<T> prior(int64_t b, int64_t p) const {
    const Vec4<T>* table = reinterpret_cast<const Vec4<T>*>(priors);
    return prior_corners(table[(per_image ? b * num_priors : 0) + p], rule.format);
  }
};

// (overlap, prior) as one integer: larger is better, whichever way ties go.
__device__ __forceinline__ PackedTop pack_top(uint32_t key, int64_t prior, bool tie_last) {
  const uint32_t low = static_cast<uint32_t>(prior);
  return static_cast<PackedTop>(key) << 32 | (tie_last ? low : ~low);
}
__device__ __forceinline__ BestPrior<float> unpack_top(PackedTop top, bool tie_last) {
  if (top == 0) return {0.0f, -1};
  const uint32_t low = static_cast<uint32_t>(top);
  return {key_value<float>(static_cast<uint32_t>(top >> 32)),
          static_cast<int32_t>(tie_last ? low : ~low)};
}

__device__ __forceinline__ uint32_t warp_max(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int delta = 16; delta > 0; delta /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, value, delta);
    value = other > value ? other : value;
  }
  return value;
#else
  return __reduce_max_sync(kFullWarp, value);
#endif
}

enum class TruthState : unsigned char { kAbsent, kUnsafe, kSafe };

// A tile of truths, and the best prior of each within every warp.
template <typename T>
struct TruthTile {
  Vec4<T> box[kTruthTile];
  T area[kTruthTile];
  TruthState state[kTruthTile];
  PackedTop top[kMatchWarps][kTruthTile];

  __device__ __forceinline__ void load(const MatchArgs<T>& args, int64_t first, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += kMatchBlock) {
      const Vec4<T> b = args.truth(first + i);
      const T a = box_area(b);
      const bool safe = is_valid_box(b) && a > T(0) && a - a == T(0);
      box[i] = b;
      area[i] = a;
      state[i] = !args.rule.takes_part(b) ? TruthState::kAbsent
                 : safe                   ? TruthState::kSafe
                                          : TruthState::kUnsafe;
    }
  }
};

template <typename T>
__device__ __forceinline__ bool boxes_touch(Vec4<T> a, Vec4<T> b) {
  return a.x < b.z && b.x < a.z && a.y < b.w && b.y < a.w;
}

// The best of 32 priors for truth i; every lane of the warp takes part, those past the priors with key 0.
template <typename T>
__device__ __forceinline__ void store_warp_top(TruthTile<T>& tile, int64_t i, uint32_t key,
                                               int64_t prior, bool tie_last) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const uint32_t best = warp_max(key);
  const unsigned holders = __ballot_sync(kFullWarp, key == best);
  const int holder =
      tie_last ? 31 - __clz(static_cast<int>(holders)) : __ffs(static_cast<int>(holders)) - 1;
  if (lane == holder) tile.top[warp][i] = best == 0 ? 0 : pack_top(best, prior, tie_last);
}

template <typename T>
__device__ __forceinline__ void merge_warp_tops(const MatchArgs<T>& args, const TruthTile<T>& tile,
                                                int64_t first, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += kMatchBlock) {
    if (tile.state[i] == TruthState::kAbsent) continue;
    PackedTop best = 0;
    for (int w = 0; w < kMatchWarps; ++w) best = tile.top[w][i] > best ? tile.top[w][i] : best;
    if (best != 0) atomicMax(&args.packed[first + i], best);
  }
}

// The grid is 1-D: block = image * ceil(num_priors / kMatchBlock) + tile of priors.
template <typename T, bool kWantTops>
__global__ void __launch_bounds__(kMatchBlock) match_kernel(const MatchArgs<T> args) {
  __shared__ TruthTile<T> tile;
  const int64_t blocks = ceil_div<int64_t>(args.num_priors, kMatchBlock);
  const int64_t b = blockIdx.x / blocks;
  const int64_t p = blockIdx.x % blocks * kMatchBlock + threadIdx.x;
  const bool real = p < args.num_priors;
  const Vec4<T> prior = real ? args.prior(b, p) : Vec4<T>{T(0), T(0), T(0), T(0)};
  const T area = box_area(prior);
  const bool safe = area >= T(0);  // also: no NaN
  const TruthRange range = truth_range(args.offsets, b, args.rows);
  T best = T(0);
  int32_t owner = -1;
  for (int64_t base = 0; base < range.count; base += kTruthTile) {
    const int64_t left = range.count - base;
    const int64_t count = left < kTruthTile ? left : kTruthTile;
    __syncthreads();  // the last tile is no longer read
    tile.load(args, range.begin + base, count);
    __syncthreads();
    for (int64_t i = 0; i < count; ++i) {
      const TruthState state = tile.state[i];
      if (state == TruthState::kAbsent) continue;
      T overlap = T(0);
      if (!safe || state == TruthState::kUnsafe || boxes_touch(prior, tile.box[i])) {
        overlap = args.rule.overlap(tile.box[i], tile.area[i], prior, area);
      }
      if (owner < 0 || args.rule.replaces(overlap, best)) {
        best = overlap;
        owner = static_cast<int32_t>(base + i);
      }
      if constexpr (kWantTops) {
        const uint32_t key = real ? ordered_key<float>(overlap) : 0u;
        store_warp_top(tile, i, key, p, args.rule.tie_last);
      }
    }
    if constexpr (kWantTops) {
      __syncthreads();
      merge_warp_tops(args, tile, range.begin + base, count);
    }
  }
  if (real) args.codes[b * args.num_priors + p] = args.rule.code(best, owner);
}

template <typename T>
inline cudaError_t launch_match(const MatchArgs<T>& args, cudaStream_t stream) {
  const int64_t blocks = args.batch * ceil_div<int64_t>(args.num_priors, kMatchBlock);
  const dim3 grid(static_cast<unsigned>(blocks)), block(kMatchBlock);
  if constexpr (sizeof(T) ==
                4) {  // 64 bits hold a float and a prior; doubles are searched by force_kernel
    if (args.rule.forced != Forced::kNone) {
      return launch(match_kernel<T, true>, grid, block, 0, stream, args);
    }
  }
  return launch(match_kernel<T, false>, grid, block, 0, stream, args);
}

}  // namespace ssd_cuda
