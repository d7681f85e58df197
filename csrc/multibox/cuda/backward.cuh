// Backward of the MultiBox loss: a tile of rows a block. It writes zeros, then reads the few rows that count
// again, a warp a row. Writes B P (C + 4) |S| bytes, reads 8 B P and C |S| at each row that counts.
#pragma once

#include "common/cuda/launch.cuh"
#include "multibox/multibox_rule.h"

namespace ssd_cuda {

// Threads of a tile, and at most as many rows. With 64 or 32 backward took 40 and 44 us on an H200 instead of 36.
constexpr int kTileBlock = 128;

// [B, P, K] in memory, strides in elements.
template <typename S>
struct RowsView {
  S* data;
  int64_t image_stride, row_stride, class_stride;

  __device__ __forceinline__ S* at(int64_t image, int64_t p) const {
    return data + image * image_stride + p * row_stride;
  }
};

// What both directions read.
template <typename S, typename T>
struct LossInputs {
  RowsView<const S> loc;   // [B, P, 4]
  RowsView<const S> conf;  // [B, P, C]
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width;
};

template <typename S>
struct LossGradients {
  RowsView<S> d_loc;   // [B, P, 4], dense in the order of loc, aligned like Vec4
  RowsView<S> d_conf;  // [B, P, C], dense in the order of conf
};

template <typename S, typename T>
struct BackwardArgs : LossInputs<S, T>, LossSelection<T>, LossGradients<S> {};

// The difference of loc and its target at one localized row.
template <typename S, typename T>
__device__ Vec4<T> loc_difference(RowsView<const S> loc, const Targets<T>& targets, int64_t image,
                                  int64_t p) {
  const S* x = loc.at(image, p);
  const int64_t s = loc.class_stride;
  const Vec4<T> t = targets.loc_target(image, p);
  return {static_cast<T>(x[0]) - t.x, static_cast<T>(x[s]) - t.y, static_cast<T>(x[2 * s]) - t.z,
          static_cast<T>(x[3 * s]) - t.w};
}

// fn(i / inner, i % inner) for the elements i of this thread; stepping both saves the division.
template <typename Fn>
__device__ __forceinline__ void for_each_pair(int count, int inner, const Fn& fn) {
  if (count == 0) return;  // nor is there an inner to divide by
  const int t = static_cast<int>(threadIdx.x);
  const int step_high = kTileBlock / inner, step_low = kTileBlock % inner;
  int high = t / inner, low = t % inner;
  for (int i = t; i < count; i += kTileBlock) {
    fn(high, low);
    high += step_high;
    low += step_low;
    if (low >= inner) {
      low -= inner;
      ++high;
    }
  }
}

// count elements from an address on, cut for vectors: head before the first 16-byte boundary, then whole packs.
template <typename S>
struct Packs {
  static constexpr int kPack = sizeof(uint4) / sizeof(S);
  int misaligned, head, packs, tail;  // tail: the first element after the packs

  __device__ Packs(const S* address, int count) {
    const int bytes = static_cast<int>(reinterpret_cast<uintptr_t>(address) % sizeof(uint4));
    misaligned = bytes / static_cast<int>(sizeof(S));
    head = misaligned == 0 ? 0 : kPack - misaligned;
    if (head > count) head = count;
    packs = (count - head) / kPack;
    tail = head + packs * kPack;
  }
};

// Zeros rows [begin, begin + rows) of a dense gradient: one run of memory, or one a class.
template <typename S>
__device__ void clear_rows(RowsView<S> view, int64_t image, int64_t begin, int rows, int classes) {
  S* target = view.at(image, begin);
  const int t = static_cast<int>(threadIdx.x), count = rows * classes;
  if (view.class_stride != 1) {
    for_each_pair(count, rows,
                  [&](int c, int row) { target[c * view.class_stride + row] = S(0.0f); });
    return;
  }
  const Packs<S> cut(target, count);
  if (t < cut.head) target[t] = S(0.0f);
  for (int i = t; i < cut.packs; i += kTileBlock) {
    reinterpret_cast<uint4*>(target + cut.head)[i] = uint4{0, 0, 0, 0};
  }
  if (cut.tail + t < count) target[cut.tail + t] = S(0.0f);
}

// One row of d_loc. Its four numbers lie together in [B, P, 4]: one store then (16 bytes in float, 8 in half).
template <typename S>
__device__ __forceinline__ void store_loc(S* target, int64_t stride, Vec4<S> value) {
  if (stride == 1) {
    *reinterpret_cast<Vec4<S>*>(target) = value;
    return;
  }
  target[0] = value.x;
  target[stride] = value.y;
  target[2 * stride] = value.z;
  target[3 * stride] = value.w;
}

// One warp writes scale * (softmax - [c == label]) of one row, rounded once.
template <typename T, typename S>
__device__ void write_row_gradient(const S* row, int64_t stride, int classes, int label, T scale,
                                   S* target, int64_t target_stride) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  T largest = static_cast<T>(row[0]);
  for (int c = lane; c < classes; c += 32) {
    const T x = static_cast<T>(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  for (int step = 16; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, largest, step);
    largest = other > largest ? other : largest;
  }
  T sum = 0;
  for (int c = lane; c < classes; c += 32) {
    sum += exp_negative(sub_rn(static_cast<T>(row[c * stride]), largest));
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  for (int c = lane; c < classes; c += 32) {
    const T probability = exp_negative(sub_rn(static_cast<T>(row[c * stride]), largest)) / sum;
    const T value = label < 0 ? T(NAN) : cross_entropy_gradient(probability, c == label);
    target[c * target_stride] = static_cast<S>(scale * value);
  }
}

template <typename S, typename T>
__global__ void __launch_bounds__(kTileBlock, (sizeof(T) == 8 ? 512 : 1536) / kTileBlock)
    backward_kernel(BackwardArgs<S, T> args) {
  using U = Ordered<T>;
  __shared__ int chosen[kTileBlock];  // row in the tile
  __shared__ int labels[kTileBlock];
  __shared__ int weights[kTileBlock];
  __shared__ unsigned num_chosen;
  const int64_t tiles = (args.width + kTileBlock - 1) / kTileBlock;
  const int64_t image = blockIdx.x / tiles, begin = blockIdx.x % tiles * kTileBlock;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < kTileBlock ? left : kTileBlock);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const int t = static_cast<int>(threadIdx.x);
  const T scale = args.scales[image];
  if (t == 0) num_chosen = 0;
  __syncthreads();
  if (t < rows) {
    const int64_t p = begin + t;
    const RowCut<U> cut{static_cast<U>(args.cuts[2 * image]), args.cuts[2 * image + 1]};
    const Row row = args.targets.row(image, p, args.rule.label);
    const int weight = row_weight(row.kind, args.keys[image * args.width + p], p, cut,
                                  args.rule.loss.positives_twice);
    if (weight > 0 && scale != T(0)) {
      const unsigned place =
          atomicAdd(&num_chosen, 1u);  // the rows are independent: any order will do
      chosen[place] = t;
      labels[place] = row.label;
      weights[place] = weight;
    }
    Vec4<T> gradient{T(0), T(0), T(0), T(0)};
    if (is_localized(row.kind) && scale != T(0)) {
      const Vec4<T> d = loc_difference(args.loc, args.targets, image, p);
      const T beta = static_cast<T>(args.rule.loss.beta);
      const T factor = static_cast<T>(static_cast<double>(*args.grad_loc) *
                                      args.rule.loss.loc_factor * static_cast<double>(scale));
      gradient = {factor * smooth_l1_gradient(d.x, beta), factor * smooth_l1_gradient(d.y, beta),
                  factor * smooth_l1_gradient(d.z, beta), factor * smooth_l1_gradient(d.w, beta)};
    }
    store_loc(args.d_loc.at(image, p), args.d_loc.class_stride,
              Vec4<S>{static_cast<S>(gradient.x), static_cast<S>(gradient.y),
                      static_cast<S>(gradient.z), static_cast<S>(gradient.w)});
  }
  clear_rows(args.d_conf, image, begin, rows,
             classes);  // after the loads, which would wait behind its stores
  __syncthreads();      // the zeros are written before the rows that replace them
  for (int i = t / 32; i < static_cast<int>(num_chosen); i += kTileBlock / 32) {
    const int64_t p = begin + chosen[i];
    write_row_gradient(args.conf.at(image, p), args.conf.class_stride, classes, labels[i],
                       static_cast<T>(weights[i]) * *args.grad_conf * scale,
                       args.d_conf.at(image, p), args.d_conf.class_stride);
  }
}

template <typename S, typename T>
inline cudaError_t launch_backward(const BackwardArgs<S, T>& args, cudaStream_t stream) {
  const int64_t blocks = args.images * ceil_div<int64_t>(args.width, kTileBlock);
  return launch(backward_kernel<S, T>, dim3(static_cast<unsigned>(blocks)), dim3(kTileBlock), 0,
                stream, args);
}

}  // namespace ssd_cuda
