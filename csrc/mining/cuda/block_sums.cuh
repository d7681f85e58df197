// Sums and other folds over the values of a warp and of a block of kSelectBlock threads.
#pragma once

#include "common/cuda/warp_reduce.cuh"
#include "row_keys.cuh"

namespace ssd_cuda {

// The sums over the block's values, both with one barrier; scratch: of this call alone.
struct SumScratch {
  unsigned first[kSelectWarps], second[kSelectWarps];
};
__device__ __forceinline__ void block_sums(unsigned& first, unsigned& second, SumScratch& scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  first = warp_sum(first);
  second = warp_sum(second);
  if (lane == 0) scratch.first[warp] = first, scratch.second[warp] = second;
  __syncthreads();
  first = warp_sum(scratch.first[lane]);
  second = warp_sum(scratch.second[lane]);
}

struct Add {
  template <typename T>
  __device__ __forceinline__ T operator()(T x, T y) const {
    return x + y;
  }
};

// fn over the warp's values, the same on every lane; a tree of fixed shape, so a sum has fixed bits.
template <typename T, typename Fn>
__device__ __forceinline__ T warp_reduce(T value, const Fn& fn) {
  for (int step = 16; step > 0; step /= 2) {
    value = fn(value, __shfl_xor_sync(kFullWarp, value, step));
  }
  return value;
}

// The same over the block's values.
template <typename T, typename Fn>
__device__ __forceinline__ T block_reduce(T value, T* scratch,
                                          const Fn& fn) {  // scratch: [kSelectWarps]
  value = warp_reduce(value, fn);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_reduce(scratch[threadIdx.x % kSelectWarps], fn);
}

}  // namespace ssd_cuda
