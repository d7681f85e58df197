// The logits of an image in the order of memory, a chunk a warp: lane l has numbers l, l + 32, ... of it.
#pragma once

#include "common/cuda/launch.cuh"
#include "focal/focal_rule.h"
#include "multibox/cuda/backward.cuh"

namespace ssd_cuda {

constexpr int kFocalBlock = 128;  // four chunks
constexpr int kFocalSteps = static_cast<int>(kFocalChunk) / 32;
constexpr int kFocalAhead = 4;  // numbers of a lane that are loaded together

// What both directions read.
template <typename S, typename T>
struct FocalInputs {
  RowsView<const S> loc;   // [B, P, 4]
  RowsView<const S> conf;  // [B, P, C]
  Targets<T> targets;
  FocalRule<T> rule;
  int64_t images, width;
  bool rows_inner;  // [B, C, P] in memory

  __host__ __device__ int64_t size() const { return width * rule.label.num_classes; }
  __host__ __device__ int64_t chunks() const { return ceil_div<int64_t>(size(), kFocalChunk); }
};

// The place of a lane in an image: number `outer` * inner size + `inner`.
struct ChunkWalk {
  int64_t outer, inner, length, step_outer, step_inner;
  bool rows_inner;

  __device__ __forceinline__ ChunkWalk(int64_t first, int64_t inner_size, bool rows)
      : outer(first / inner_size),
        inner(first % inner_size),
        length(inner_size),
        step_outer(32 / inner_size),
        step_inner(32 % inner_size),
        rows_inner(rows) {}
  __device__ __forceinline__ int64_t row() const { return rows_inner ? inner : outer; }
  __device__ __forceinline__ int64_t column() const { return rows_inner ? outer : inner; }
  __device__ __forceinline__ void next() {
    outer += step_outer;
    inner += step_inner;
    if (inner >= length) inner -= length, ++outer;
  }
};

// fn(number's place in the image, row, column, logit) for the numbers of a lane in chunk `chunk` of the image, in order.
template <typename S, typename T, typename Fn>
__device__ __forceinline__ void each_number(const FocalInputs<S, T>& in, int64_t image,
                                            int64_t chunk, const Fn& fn) {
  const int64_t first = chunk * kFocalChunk + threadIdx.x % 32, size = in.size();
  const S* base = in.conf.at(image, 0);
  ChunkWalk walk(first, in.rows_inner ? in.width : in.rule.label.num_classes, in.rows_inner);
#pragma unroll 1
  for (int k = 0; k < kFocalSteps; k += kFocalAhead) {
    S x[kFocalAhead];
    int64_t rows[kFocalAhead], columns[kFocalAhead];
#pragma unroll
    for (int u = 0; u < kFocalAhead; ++u) {
      rows[u] = walk.row(), columns[u] = walk.column();
      if (first + 32 * (k + u) < size) {
        x[u] = base[rows[u] * in.conf.row_stride + columns[u] * in.conf.class_stride];
      }
      walk.next();
    }
#pragma unroll
    for (int u = 0; u < kFocalAhead; ++u) {
      const int64_t i = first + 32 * (k + u);
      if (i < size) fn(i, rows[u], columns[u], static_cast<T>(x[u]));
    }
  }
}

}  // namespace ssd_cuda
