// The greatest of numbers that lie side by side, 16-bit ones two at a time.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/host_device.h"

namespace ssd_cuda {

// Of what one maximum takes: the number itself, or a pair of 16-bit ones. A NaN loses to every number.
template <typename S>
struct NumberPack {
  using Pack = S;
};
template <>
struct NumberPack<__half> {
  using Pack = __half2;
  static __device__ __forceinline__ Pack make(__half a, __half b) { return __halves2half2(a, b); }
};
template <>
struct NumberPack<__nv_bfloat16> {
  using Pack = __nv_bfloat162;
  static __device__ __forceinline__ Pack make(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __halves2bfloat162(a, b);
  }
};

template <typename Pack>
__device__ __forceinline__ Pack greater(Pack a, Pack b) {
  if constexpr (std::is_floating_point_v<Pack>)
    return max_number(a, b);
  else
    return __hmax2(a, b);
}

// `greatest` and `count` packs, eight at a time; the last eight may take some a second time.
template <typename Pack>
__device__ __forceinline__ Pack greatest_pack(const Pack* x, int count, Pack greatest) {
  constexpr int kStep = 8;
  if (count < kStep) {
#pragma unroll 1
    for (int i = 0; i < count; ++i) greatest = greater(greatest, x[i]);
    return greatest;
  }
#pragma unroll 1
  for (int i = 0; i < count; i += kStep) {
    const Pack* next = x + (i < count - kStep ? i : count - kStep);
#pragma unroll
    for (int u = 0; u < kStep; ++u) greatest = greater(greatest, next[u]);
  }
  return greatest;
}

// The greatest of `count` > 0 numbers, as T; NaN if all are.
template <typename T, typename S>
__device__ __forceinline__ T greatest_of(const S* x, int count) {
  using Pack = typename NumberPack<S>::Pack;
  if constexpr (sizeof(Pack) == sizeof(S)) {
    return static_cast<T>(greatest_pack<Pack>(x, count, x[0]));
  } else {
    // Pairs begin at even places. The first number and the last one may have none.
    const int odd = static_cast<int>(reinterpret_cast<uintptr_t>(x) / sizeof(S) % 2);
    const Pack found = greatest_pack(reinterpret_cast<const Pack*>(x + odd), (count - odd) / 2,
                                     NumberPack<S>::make(x[0], x[count - 1]));
    return max_number(static_cast<T>(found.x), static_cast<T>(found.y));
  }
}

}  // namespace ssd_cuda
