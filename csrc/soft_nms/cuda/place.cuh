// The rows of a result from the key of each box: by (score descending, index ascending).
//
// place_kernel: a thread a box counts the better keys, which is its row: no sort, no atomics. N keys are read by each block
// of 256 through shared memory, N^2 / 256 keys in all, from L2 while they fit; 8 + T bytes a row are written. It follows
// kernels that look at every pair of boxes, beside which this is little.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/ordered_key.h"

namespace ssd_cuda {

constexpr int kPlaceBlock = 256;

template <typename T>
struct PlaceArgs {
  const Ordered<T>* keys;  // [N] ordered_key of a score, 0 for a box that has no row
  int64_t n, rows;
  int64_t* keep;   // [rows], -1 past the count
  T* kept_scores;  // [rows], 0 past the count
  int64_t* count;  // [1]
};

template <typename T>
__global__ void __launch_bounds__(kPlaceBlock) place_kernel(PlaceArgs<T> args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ U tile[kPlaceBlock];
  const int64_t i = int64_t{blockIdx.x} * kPlaceBlock + threadIdx.x;
  const U own = i < args.n ? args.keys[i] : 0;
  int64_t row = 0, total = 0;
  for (int64_t begin = 0; begin < args.n; begin += kPlaceBlock) {
    tile[threadIdx.x] = begin + threadIdx.x < args.n ? args.keys[begin + threadIdx.x] : 0;
    __syncthreads();
    for (int j = 0; j < kPlaceBlock; ++j) {
      const U key = tile[j];
      total += key != 0;
      row += key > own || (key == own && begin + j < i);
    }
    __syncthreads();
  }
  if (own != 0 && row < args.rows) {
    args.keep[row] = i;
    args.kept_scores[row] = key_value<T>(own);
  }
  if (i >= total && i < args.rows) {
    args.keep[i] = -1;
    args.kept_scores[i] = 0;
  }
  if (i == 0) *args.count = total < args.rows ? total : args.rows;
}

template <typename T>
inline cudaError_t launch_place(const PlaceArgs<T>& args, cudaStream_t stream) {
  const int64_t most = args.n > args.rows ? args.n : args.rows;
  const int64_t blocks = most > 0 ? ceil_div<int64_t>(most, kPlaceBlock) : 1;  // writes the count
  return launch(place_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kPlaceBlock), 0, stream,
                args);
}

}  // namespace ssd_cuda
