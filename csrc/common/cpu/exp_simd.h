// exp and log of a Pack: exp_math.h's operations in the same order, so the same bits as the scalar form.
#pragma once

#include "common/math/exp_math.h"
#include "simd.h"

namespace ssd_cuda {

struct PackOps {
  template <typename V>
  using Lane = LaneOf<V>;
  template <typename V>
  using Bits = Pack<std::conditional_t<sizeof(LaneOf<V>) == 8, uint64_t, uint32_t>, kLanesOf<V>>;
  template <typename V>
  static SSD_SIMD_BODY V add(V a, V b) {
    return a + b;
  }
  template <typename V>
  static SSD_SIMD_BODY V mul(V a, V b) {
    return a * b;
  }
  template <typename V>
  static SSD_SIMD_BODY V div(V a, V b) {
    return a / b;
  }
  template <typename V>
  static SSD_SIMD_BODY V fma(V a, V b, V c) {
    return fma_pack(a, b, c);
  }
  template <typename V>
  static SSD_SIMD_BODY V max_of_constant(V a, V b) {
    return ssd_cuda::max_of_constant(a, b);
  }
  template <typename U>
  static SSD_SIMD_BODY auto number(U n) {
    constexpr int kLanes = kLanesOf<U>;
    return __builtin_convertvector(Pack<int32_t, kLanes>(n), Pack<float, kLanes>);
  }
  template <typename U>
  static SSD_SIMD_BODY U shift_signed(U n, int by) {
    return U(Pack<int32_t, kLanesOf<U>>(n) >> by);
  }
};

// ScalarOps of a lambda whose registers have kBytes: without a call of the library at any level.
template <int kBytes>
struct NumberOps : ScalarOps {
  static SSD_SIMD_BODY float fma(float a, float b, float c) { return fma_number<kBytes>(a, b, c); }
};

template <typename V>
SSD_SIMD_BODY inline V exp_negative_pack(V x) {
  return exp_negative_by<PackOps>(x);
}
template <typename V>
SSD_SIMD_BODY inline V add_exp_negative_pack(V sum, V x) {
  return add_exp_negative_by<PackOps>(sum, x);
}
template <typename V>
SSD_SIMD_BODY inline V exp_fixed_pack(V x) {
  return exp_by<PackOps>(x);
}
// Of normal numbers > 0.
template <typename V>
SSD_SIMD_BODY inline V log_normal_pack(V x) {
  return log_normal_by<PackOps>(x);
}

}  // namespace ssd_cuda
