// The cross entropy of one row by one thread; classes are added in order, as on the CPU.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/loss_math.h"

namespace ssd_cuda {

// The largest logit of a row anywhere and the sum of exp(x - largest), NaN where one of them is.
template <typename T>
struct RowSum {
  T largest, sum;
};
template <typename T, typename S>
__device__ __forceinline__ RowSum<T> sum_of_row(const S* row, int64_t stride, int classes) {
  T largest = static_cast<T>(row[0]);
  for (int c = 1; c < classes; ++c) {
    largest = max_number(static_cast<T>(row[c * stride]), largest);
  }
  T sum = 0;
#pragma unroll 4
  for (int c = 0; c < classes; ++c) {
    sum = add_exp_negative(sum, sub_rn(static_cast<T>(row[c * stride]), largest));
  }
  return {largest, sum};
}

// Its cross entropy at `label`, NaN where that is -1.
template <typename T, typename S>
__device__ __forceinline__ T cross_entropy_of(RowSum<T> found, const S* row, int64_t stride,
                                              int label) {
  if (label < 0) return T(NAN);
  return cross_entropy(log_normal(found.sum), static_cast<T>(row[label * stride]), found.largest);
}
template <typename T, typename S>
__device__ T row_cross_entropy(const S* row, int64_t stride, int classes, int label) {
  if (label < 0) return T(NAN);
  return cross_entropy_of(sum_of_row<T>(row, stride, classes), row, stride, label);
}

// The cross entropy of a row and the loss that it has by the terms of the classes.
template <typename T>
struct RowLoss {
  T plain, loss;
};
template <typename T, typename S>
__device__ RowLoss<T> row_loss_of_terms(const S* row, int64_t stride, int classes, int label,
                                        const ClassTerms<T>& terms) {
  if (label < 0) return {T(NAN), T(NAN)};
  T largest = static_cast<T>(row[0]);
  for (int c = 1; c < classes; ++c) {
    largest = max_number(static_cast<T>(row[c * stride]), largest);
  }
  T sum = 0, total = 0, shifted = 0;
  for (int c = 0; c < classes; ++c) {
    const T x = sub_rn(static_cast<T>(row[c * stride]), largest);
    sum = add_exp_negative(sum, x);
    if (!terms.smooth()) continue;
    const T weight = terms.weight(c);
    total = add_rn(total, weight);
    shifted = add_rn(shifted, mul_rn(x, weight));
  }
  const T log_sum = log_normal(sum);
  const T plain = cross_entropy(log_sum, static_cast<T>(row[label * stride]), largest);
  return {plain, terms.loss(plain, label, log_sum, total, shifted)};
}

// Two neighbours of a row in half precision, one load.
template <typename S>
struct Paired {
  static constexpr bool kPairs = false;
};
template <>
struct Paired<__half> {
  static constexpr bool kPairs = true;
  using Pair = __half2;
  static __device__ __forceinline__ Pair of(__half x, __half y) { return __halves2half2(x, y); }
};
template <>
struct Paired<__nv_bfloat16> {
  static constexpr bool kPairs = true;
  using Pair = __nv_bfloat162;
  static __device__ __forceinline__ Pair of(__nv_bfloat16 x, __nv_bfloat16 y) {
    return __halves2bfloat162(x, y);
  }
};

// Of a row in shared memory whose classes lie side by side. In half precision it is read by words of two, of which the first
// and the last class may be left over: 17 instructions a class instead of 22. beside() is called as often as the row has 16
// bytes, but for its ends.
template <typename T, typename S, typename Beside>
__device__ __forceinline__ RowSum<T> staged_sum(const S* row, int classes, const Beside& beside) {
  T largest, sum = 0;
  const auto add = [&](T x) { sum = add_exp_negative(sum, sub_rn(x, largest)); };
  constexpr int kPack = 16 / sizeof(S);
  if constexpr (!Paired<S>::kPairs) {
    largest = static_cast<T>(row[0]);
    for (int c = 1; c < classes; ++c) largest = max_number(static_cast<T>(row[c]), largest);
    int c = 0;
    for (; c + kPack <= classes; c += kPack) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) add(static_cast<T>(row[c + i]));
      beside();
    }
    for (; c < classes; ++c) add(static_cast<T>(row[c]));
  } else {
    using Pair = typename Paired<S>::Pair;
    const bool head = reinterpret_cast<uintptr_t>(row) % sizeof(Pair) != 0;
    const Pair* const pairs = reinterpret_cast<const Pair*>(row + head);
    const int count = (classes - head) / 2;
    const bool tail = head + 2 * count < classes;
    Pair top = Paired<S>::of(row[0], row[classes - 1]);
#pragma unroll 4
    for (int i = 0; i < count; ++i) top = __hmax2(top, pairs[i]);  // of a number and NaN the number
    const T low = __low2float(top), high = __high2float(top);
    largest = high > low ? high : low;
    const auto add_pair = [&](int i) {
      const Pair pair = pairs[i];
      add(__low2float(pair));
      add(__high2float(pair));
    };
    if (head) add(static_cast<T>(row[0]));
    int i = 0;
    for (; i + kPack / 2 <= count; i += kPack / 2) {
#pragma unroll
      for (int j = 0; j < kPack / 2; ++j) add_pair(i + j);
      beside();
    }
    for (; i < count; ++i) add_pair(i);
    if (tail) add(static_cast<T>(row[classes - 1]));
  }
  return {largest, sum};
}

}  // namespace ssd_cuda
