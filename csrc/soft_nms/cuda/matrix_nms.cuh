// Matrix NMS: two passes over all pairs, then the rows (place.cuh).
//
// matrix_kernel: a thread a box, which meets all boxes in tiles of a block in shared memory and takes those that are better
// and of its class: first for its greatest IoU, then for the least quotient. A maximum and a minimum: no order, no atomics.
// N boxes are read by each block of 128 (6 T + 8 bytes, from L2 while they fit), T a box written; bound by N^2 pairs of
// arithmetic. Global memory: 2 T a box.
#pragma once

#include "place.cuh"
#include "soft_nms/matrix_nms_rule.h"

namespace ssd_cuda {

constexpr int kMatrixBlock = 128;

template <typename T>
struct MatrixNmsArgs {
  int64_t n;
  MatrixRule<T> rule;
  const Vec4<T>* boxes;  // [N]
  const T* scores;       // [N]
  const int64_t* idxs;   // [N] or null: one class
  T* greatest;           // [N] the greatest IoU with a better box
  Ordered<T>* keys;      // [N] ordered_key of the lowered score, 0 where it is dropped

  template <typename Take>
  MatrixNmsArgs(int64_t count, const Take& take)
      : n(count), greatest(take(n, T{})), keys(take(n, Ordered<T>{})) {}
};

template <typename T>
struct MatrixTile {
  Vec4<T> boxes[kMatrixBlock];
  int64_t classes[kMatrixBlock];
  Ordered<T> keys[kMatrixBlock];
  T areas[kMatrixBlock], greatest[kMatrixBlock];
};

template <typename T, bool kDecay>
__global__ void __launch_bounds__(kMatrixBlock) matrix_kernel(MatrixNmsArgs<T> args) {
  after_previous_kernel();
  __shared__ MatrixTile<T> tile;
  const int64_t j = int64_t{blockIdx.x} * kMatrixBlock + threadIdx.x;
  const bool real = j < args.n;
  const Vec4<T> box = real ? args.boxes[j] : Vec4<T>{};
  const T area = args.rule.area(box);
  const Ordered<T> key = real ? ordered_key(args.scores[j]) : 0;
  const int64_t own = real && args.idxs != nullptr ? args.idxs[j] : 0;
  T found = kDecay ? T(1) : T(0);
  for (int64_t begin = 0; begin < args.n; begin += kMatrixBlock) {
    const int64_t next = begin + threadIdx.x;
    if (next < args.n) {
      const Vec4<T> other = args.boxes[next];
      tile.boxes[threadIdx.x] = other;
      tile.areas[threadIdx.x] = args.rule.area(other);
      tile.keys[threadIdx.x] = ordered_key(args.scores[next]);
      tile.classes[threadIdx.x] = args.idxs != nullptr ? args.idxs[next] : 0;
      if (kDecay) tile.greatest[threadIdx.x] = args.greatest[next];
    }
    __syncthreads();
    const int64_t rest = args.n - begin;
    const int count = rest < kMatrixBlock ? static_cast<int>(rest) : kMatrixBlock;
    for (int k = 0; k < count; ++k) {
      const bool better = tile.keys[k] > key || (tile.keys[k] == key && begin + k < j);
      if (!better || tile.classes[k] != own) continue;
      const T overlap = args.rule.overlap(tile.boxes[k], tile.areas[k], box, area);
      if (!(overlap > T(0))) continue;
      found = kDecay ? min_of(args.rule.quotient(overlap, tile.greatest[k]), found)
                     : max_of(overlap, found);
    }
    __syncthreads();
  }
  if (!real) return;
  if (kDecay) {
    const T score = args.rule.lowered(args.scores[j], found);
    args.keys[j] = args.rule.dropped(score) ? Ordered<T>(0) : ordered_key(score);
  } else {
    args.greatest[j] = found;
  }
}

// args: everything but the outputs.
template <typename T>
inline cudaError_t launch_matrix_nms(const MatrixNmsArgs<T>& args, int64_t rows, int64_t* keep,
                                     T* kept_scores, int64_t* count, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>(ceil_div<int64_t>(args.n, kMatrixBlock)));
  cudaError_t error = launch(matrix_kernel<T, false>, blocks, dim3(kMatrixBlock), 0, stream, args);
  if (error != cudaSuccess) return error;
  error = launch(matrix_kernel<T, true>, blocks, dim3(kMatrixBlock), 0, stream, args);
  if (error != cudaSuccess) return error;
  return launch_place<T>({.keys = args.keys,
                          .n = args.n,
                          .rows = rows,
                          .keep = keep,
                          .kept_scores = kept_scores,
                          .count = count},
                         stream);
}

}  // namespace ssd_cuda
