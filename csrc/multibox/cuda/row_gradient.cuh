// The gradient of one row's logits: by eight lanes of a warp where a row is short, so that a warp has four of them, else by
// all.
#pragma once

#include "multibox/multibox_rule.h"
#include "tile.cuh"

namespace ssd_cuda {

// Lanes that share a short row. A warp a row took 330 instructions, of sm_90's code, where this takes 590 for four: 40 us on an
// H200 for the 41,000 rows of 32 images with 100 truths each, four times that of their bytes.
constexpr int kTeam = 8;
constexpr int kTeams = 32 / kTeam;
// Logits of a short row that a lane keeps, by groups of 32 classes; longer rows are read three times.
constexpr int kGroupLogits = 32 / kTeam;
constexpr int kGroups = 4;
constexpr int kShortRow = 32 * kGroups;

// The largest or the sum of the values of kLanes lanes by a tree of fixed shape, the same on every one of them.
template <int kLanes = 32, typename T>
__device__ __forceinline__ T largest_of_lanes(T value) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}
template <int kLanes = 32, typename T>
__device__ __forceinline__ T sum_of_lanes(T value) {
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

// A share of a sum whose inverse is rounded once: rounded once as well where it is at least 2^-78 (Markstein), else to a
// neighbour. Three instructions, where a division takes ten and a branch.
__device__ __forceinline__ float share_of(float power, float sum, float inverse) {
  const float near = mul_rn(power, inverse);
  return fma_rn(fma_rn(-near, sum, power), inverse, near);
}
__device__ __forceinline__ double share_of(double power, double sum, double) { return power / sum; }

// scale * (softmax - [c == label]) of one row, or that of the terms, rounded once more. The exponentials of the classes l,
// l + 32, ... are added in this order, then the 32 sums in a tree, whoever adds them.
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
  // NaN where the label is none.
  __device__ __forceinline__ T checked(T sum) const { return label < 0 ? T(NAN) : sum; }
  __device__ __forceinline__ S gradient(int c, bool is_label, T share) const {
    const T value =
        kGeneral ? terms.gradient(share, c, label, total) : cross_entropy_gradient(share, is_label);
    return static_cast<S>(scale * value);
  }

  // Of any length, by a warp: its logits come from memory three times.
  __device__ __forceinline__ void write_long() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    T largest = logit(0);
    for (int c = lane; c < classes; c += 32) {
      const T x = logit(c);
      largest = x > largest ? x : largest;
    }
    largest = largest_of_lanes(largest);
    T sum = 0;
    for (int c = lane; c < classes; c += 32) sum += exp_negative(sub_rn(logit(c), largest));
    sum = checked(sum_of_lanes(sum));
    const T inverse = T(1) / sum;
    for (int c = lane; c < classes; c += 32) {
      const T power = exp_negative(sub_rn(logit(c), largest));
      target[c * target_stride] = gradient(c, c == label, share_of(power, sum, inverse));
    }
  }

  // Of at most kShortRow classes, by kTeam lanes. real: whether there is a row; the other teams of the warp wait for these
  // lanes in any case. Written for few instructions: no product of 64 bits for an address, and the numbers of a lane are told
  // apart by constants.
  __device__ __forceinline__ void write_short(bool real) const {
    const int lane = static_cast<int>(threadIdx.x) % kTeam, left = classes - lane;
    const auto each = [&](const auto& fn) {  // fn(j): of class kTeam j + lane, if j kTeam < left
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        if (32 * g >= classes) break;  // the same for all lanes
#pragma unroll
        for (int j = kGroupLogits * g; j < kGroupLogits * (g + 1); ++j) fn(j);
      }
    };
    const S* from = row + lane * stride;
    const int64_t step = kTeam * stride;
    S held[kGroups * kGroupLogits];
    each([&](int j) {
      held[j] = *(kTeam * j < left ? from : row);  // class 0 beyond the last
      from += step;
    });
    T largest = __shfl_sync(kFullWarp, static_cast<T>(held[0]), 0, kTeam);
    each([&](int j) {
      const T x = static_cast<T>(held[j]);
      largest = x > largest ? x : largest;
    });
    largest = largest_of_lanes<kTeam>(largest);
    T powers[kGroups * kGroupLogits], sums[kGroupLogits] = {};
    each([&](int j) {
      powers[j] = exp_negative(sub_rn(static_cast<T>(held[j]), largest));
      if (kTeam * j < left) sums[j % kGroupLogits] += powers[j];
    });
    for (int i = kGroupLogits / 2; i > 0; i /= 2) {  // the upper steps of the tree
      for (int j = 0; j < i; ++j) sums[j] += sums[i + j];
    }
    const T sum = checked(sum_of_lanes<kTeam>(sums[0]));
    const T inverse = T(1) / sum;
    S* to = target + lane * target_stride;
    const int64_t target_step = kTeam * target_stride;
    const int own = label - lane, room = real ? left : 0;
    each([&](int j) {
      if (kTeam * j < room) {
        *to = gradient(kTeam * j + lane, kTeam * j == own, share_of(powers[j], sum, inverse));
      }
      to += target_step;
    });
  }
};

}  // namespace ssd_cuda
