// The largest of a warp's integers, and their sum.
#pragma once

#include "launch.cuh"

namespace ssd_cuda {

// Of 32 or 64 bits, for every lane of a whole warp. 64 bits are two reductions: of the upper halves, then of the lower ones
// beside the largest of these.
template <typename Bits>
__device__ __forceinline__ Bits warp_largest_bits(Bits value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int delta = 16; delta > 0; delta /= 2) {
    const Bits other = __shfl_xor_sync(kFullWarp, value, delta);
    value = other > value ? other : value;
  }
  return value;
#else
  if constexpr (sizeof(Bits) == 4) {
    return __reduce_max_sync(kFullWarp, value);
  } else {
    using Upper = std::conditional_t<std::is_signed_v<Bits>, int, unsigned>;
    const auto own = static_cast<Upper>(value >> 32);
    const Upper upper = __reduce_max_sync(kFullWarp, own);
    const unsigned lower =
        __reduce_max_sync(kFullWarp, own == upper ? static_cast<unsigned>(value) : 0);
    return static_cast<Bits>(static_cast<uint64_t>(static_cast<unsigned>(upper)) << 32 | lower);
  }
#endif
}

// The sum over the warp's values, the same on every lane.
__device__ __forceinline__ unsigned warp_sum(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
#else
  return __reduce_add_sync(kFullWarp, value);
#endif
}

}  // namespace ssd_cuda
