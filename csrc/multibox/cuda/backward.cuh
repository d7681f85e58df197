// Backward of the MultiBox loss. The gradient of the logits is zeros before: keys_kernel wrote them, or the binding
// did. A run of rows a block: which of them count, and d_loc of all; then a warp a row that counts reads its logits again
// and writes its gradient. Reads 8 B P and C |S| at each row that counts (about 3% of them), writes 4 B P |S| and as much
// as it reads of logits.
#pragma once

#include "multibox/multibox_rule.h"
#include "tile.cuh"

namespace ssd_cuda {

// Of backward_kernel. With 384 rows a block, whose warps then take more rows one after the other, B = 1 took 7.4 us on an
// H200 instead of 5.3, and 100 truths an image 52 instead of 41.
constexpr int kBackwardBlock = 128;
constexpr int kBackwardRows = 256;
constexpr int kBackwardEach = kBackwardRows / kBackwardBlock;
// Logits of a row that a lane of a warp keeps; longer rows are read three times.
constexpr int kLaneLogits = 4;

// What both directions read.
template <typename S, typename T>
struct LossInputs {
  RowsView<const S> loc;   // [B, P, 4]
  RowsView<const S> conf;  // [B, P, C]
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width;
};

// Whether the loss takes the general kernels.
template <typename S, typename T>
inline bool is_general(const LossInputs<S, T>& inputs) {
  return inputs.targets.terms.any() || is_box_loss(inputs.rule.loss.loc);
}

template <typename S>
struct LossGradients {
  RowsView<S> d_loc;   // [B, P, 4], dense in the order of loc, aligned like Vec4
  RowsView<S> d_conf;  // [B, P, C], zeros
};

template <typename S, typename T>
struct BackwardArgs : LossInputs<S, T>, LossSelection<T>, LossGradients<S> {};

template <typename S, typename T>
__device__ __forceinline__ Vec4<T> loc_row(RowsView<const S> loc, int64_t image, int64_t p) {
  const S* x = loc.at(image, p);
  const int64_t s = loc.class_stride;
  return {static_cast<T>(x[0]), static_cast<T>(x[s]), static_cast<T>(x[2 * s]),
          static_cast<T>(x[3 * s])};
}

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

// The largest or the sum of the warp's values by a tree of fixed shape, the same on every lane.
template <typename T>
__device__ __forceinline__ T warp_largest(T value) {
  for (int step = 16; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}
template <typename T>
__device__ __forceinline__ T warp_tree_sum(T value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

// scale * (softmax - [c == label]) of one row by one warp, or that of the terms, rounded once. Lane l has the classes l,
// l + 32, ...
template <typename S, typename T, bool kGeneral>
struct RowGradient {
  const S* row;
  int64_t stride;
  int classes, label;
  T scale;
  S* target;
  int64_t target_stride;
  const ClassTerms<T>& terms;
  T total;  // see ClassTerms

  __device__ __forceinline__ T logit(int c) const { return static_cast<T>(row[c * stride]); }
  __device__ __forceinline__ void store(int c, T power, T sum) const {
    T value;
    if constexpr (kGeneral) {
      value = terms.gradient(power / sum, c, label, total);
    } else {
      value = label < 0 ? T(NAN) : cross_entropy_gradient(power / sum, c == label);
    }
    target[c * target_stride] = static_cast<S>(scale * value);
  }

  // Of any length: its logits come from memory three times.
  __device__ __forceinline__ void write_long() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    T largest = logit(0);
    for (int c = lane; c < classes; c += 32) {
      const T x = logit(c);
      largest = x > largest ? x : largest;
    }
    largest = warp_largest(largest);
    T sum = 0;
    for (int c = lane; c < classes; c += 32) sum += exp_negative(sub_rn(logit(c), largest));
    sum = warp_tree_sum(sum);
    for (int c = lane; c < classes; c += 32) {
      store(c, exp_negative(sub_rn(logit(c), largest)), sum);
    }
  }

  // Of at most 32 kLaneLogits classes: load() long before write(), so that the next row is on its way.
  __device__ __forceinline__ void load(S (&held)[kLaneLogits]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int j = 0; j < kLaneLogits; ++j) {
      const int c = 32 * j + lane;
      held[j] = row[(c < classes ? c : 0) * stride];
    }
  }
  __device__ __forceinline__ void write(const S (&held)[kLaneLogits]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    T largest = __shfl_sync(kFullWarp, static_cast<T>(held[0]), 0);
#pragma unroll
    for (int j = 0; j < kLaneLogits; ++j) {
      const T x = static_cast<T>(held[j]);  // that of class 0 beyond the last
      largest = x > largest ? x : largest;
    }
    largest = warp_largest(largest);
    T sum = 0, powers[kLaneLogits];
#pragma unroll
    for (int j = 0; j < kLaneLogits; ++j) {
      powers[j] = exp_negative(sub_rn(static_cast<T>(held[j]), largest));
      if (32 * j + lane < classes) sum += powers[j];
    }
    sum = warp_tree_sum(sum);
#pragma unroll
    for (int j = 0; j < kLaneLogits; ++j) {
      if (32 * j + lane < classes) store(32 * j + lane, powers[j], sum);
    }
  }
};

// The rows of a block that count.
struct ChosenRows {
  int row[kBackwardRows], label[kBackwardRows], weight[kBackwardRows];
  unsigned count;
};

// Writes d_conf of the rows chosen, each by a warp of the block.
template <bool kGeneral, typename S, typename T>
__device__ __forceinline__ void write_chosen(const BackwardArgs<S, T>& args,
                                             const ChosenRows& chosen, int64_t image,
                                             int64_t begin) {
  constexpr int kWarps = kBackwardBlock / 32;
  const int count = static_cast<int>(chosen.count);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const T scale = args.scales[image];
  const ClassTerms<T>& terms = args.targets.terms;
  T total = 0;
  if constexpr (kGeneral) {
    for (int c = static_cast<int>(threadIdx.x) % 32; c < classes; c += 32) total += terms.weight(c);
    total = warp_tree_sum(total);
  }
  const auto at = [&](int i) -> RowGradient<S, T, kGeneral> {
    const int64_t p = begin + chosen.row[i];
    return {args.conf.at(image, p),
            args.conf.class_stride,
            classes,
            chosen.label[i],
            static_cast<T>(chosen.weight[i]) * *args.grad_conf * scale,
            args.d_conf.at(image, p),
            args.d_conf.class_stride,
            terms,
            total};
  };
  int i = static_cast<int>(threadIdx.x) / 32;
  if (classes > 32 * kLaneLogits) {
    for (; i < count; i += kWarps) at(i).write_long();
    return;
  }
  if (i >= count) return;
  S held[kLaneLogits], next[kLaneLogits];
  at(i).load(held);
  for (; i < count; i += kWarps) {
    if (i + kWarps < count) at(i + kWarps).load(next);
    at(i).write(held);
#pragma unroll
    for (int j = 0; j < kLaneLogits; ++j) held[j] = next[j];
  }
}

// d_loc of one row. args: what LossInputs has of it, grad_loc and d_loc.
template <typename S, bool kGeneral = false, typename Args, typename T>
__device__ __forceinline__ void write_loc(const Args& args, int64_t image, int64_t p,
                                          bool localized, T scale) {
  Vec4<T> gradient{T(0), T(0), T(0), T(0)};
  if (localized && scale != T(0)) {
    const T factor = static_cast<T>(static_cast<double>(*args.grad_loc) *
                                    args.rule.loss.loc_factor * static_cast<double>(scale));
    if (kGeneral && is_box_loss(args.rule.loss.loc)) {
      const Vec4<T> x = loc_row<S, T>(args.loc, image, p);
      const Vec4<T> d = args.targets.box_loss(image, p, x, args.rule.loss.loc).gradient;
      gradient = {factor * d.x, factor * d.y, factor * d.z, factor * d.w};
    } else {
      const Vec4<T> d = loc_difference(args.loc, args.targets, image, p);
      const T beta = static_cast<T>(args.rule.loss.beta);
      gradient = {factor * smooth_l1_gradient(d.x, beta), factor * smooth_l1_gradient(d.y, beta),
                  factor * smooth_l1_gradient(d.z, beta), factor * smooth_l1_gradient(d.w, beta)};
    }
  }
  store_loc(args.d_loc.at(image, p), args.d_loc.class_stride,
            Vec4<S>{static_cast<S>(gradient.x), static_cast<S>(gradient.y),
                    static_cast<S>(gradient.z), static_cast<S>(gradient.w)});
}

// Threads that a multiprocessor should hold: what the registers allow.
template <typename T, bool kGeneral>
constexpr int backward_threads() {
  if (kGeneral) return sizeof(T) == 8 ? 384 : 640;
  return sizeof(T) == 8 ? 512 : 896;
}

template <typename S, typename T, bool kGeneral>
__global__ void __launch_bounds__(kBackwardBlock, backward_threads<T, kGeneral>() / kBackwardBlock)
    backward_kernel(BackwardArgs<S, T> args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ ChosenRows chosen;
  const auto runs = static_cast<unsigned>(ceil_div<int64_t>(args.width, kBackwardRows));
  const unsigned from_image = blockIdx.x / runs;
  const int64_t image = from_image, begin = int64_t{blockIdx.x - from_image * runs} * kBackwardRows;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < kBackwardRows ? left : kBackwardRows);
  const int t = static_cast<int>(threadIdx.x);
  const T scale = args.scales[image];
  const RowCut<U> cut{static_cast<U>(args.cuts[2 * image]), args.cuts[2 * image + 1]};
  U keys[kBackwardEach];
  Mark marks[kBackwardEach];
#pragma unroll
  for (int j = 0; j < kBackwardEach; ++j) {  // all on their way before the first is looked at
    const int r = j * kBackwardBlock + t;
    const int64_t p = begin + (r < rows ? r : 0);
    keys[j] = args.keys[image * args.width + p];
    marks[j] = args.targets.mark(image, p);
  }
  if (t == 0) chosen.count = 0;
  __syncthreads();
  unsigned localized = 0;  // bit j: row j of this thread
#pragma unroll
  for (int j = 0; j < kBackwardEach; ++j) {
    const int r = j * kBackwardBlock + t;
    if (r >= rows) continue;
    const int64_t p = begin + r;
    const Row row = args.targets.row(image, marks[j], args.rule.label);
    const int weight = row_weight(row.kind, keys[j], p, cut, args.rule.loss.positives_twice);
    if (is_localized(row.kind)) localized |= 1u << j;
    if (weight > 0 && scale != T(0)) {
      const unsigned place =
          atomicAdd(&chosen.count, 1u);  // the rows are independent: any order will do
      chosen.row[place] = r;
      chosen.label[place] = row.label;
      chosen.weight[place] = weight;
    }
  }
  __syncthreads();
  write_chosen<kGeneral>(args, chosen, image, begin);
#pragma unroll 1  // side by side they would take half of the registers
  for (int r = t; r < rows; r += kBackwardBlock, localized >>= 1) {
    write_loc<S, kGeneral>(args, image, begin + r, (localized & 1) != 0, scale);
  }
}

template <typename S, typename T>
inline cudaError_t launch_backward(const BackwardArgs<S, T>& args, cudaStream_t stream) {
  const int64_t blocks = args.images * ceil_div<int64_t>(args.width, kBackwardRows);
  const auto kernel = is_general(args) ? backward_kernel<S, T, true> : backward_kernel<S, T, false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kBackwardBlock), 0, stream, args);
}

}  // namespace ssd_cuda
