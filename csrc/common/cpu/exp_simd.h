// exp_fixed and log_fixed on a Pack: the same operations in the same order, so the same bits as the scalar form.
#pragma once

#include "common/math/exp_math.h"
#include "simd.h"

namespace ssd_cuda {

struct PackOps {
  template <typename A, typename B>
  static SSD_SIMD_BODY auto add(A a, B b) {
    return a + b;
  }
  template <typename A, typename B>
  static SSD_SIMD_BODY auto mul(A a, B b) {
    return a * b;
  }
  template <typename V>
  static SSD_SIMD_BODY V fma(V a, V b, V c) {
    return fma_pack(a, b, c);
  }
};

// V: a Pack of float, or of double (there the lanes go through std::exp one by one).
template <typename V>
SSD_SIMD_BODY inline V exp_negative_pack(V x) {
  if constexpr (std::is_same_v<std::remove_cvref_t<decltype(x[0])>, double>) {
    V y = x;
    for (int lane = 0; lane < static_cast<int>(sizeof(V) / sizeof(double)); ++lane) {
      y[lane] = exp_negative(static_cast<double>(x[lane]));
    }
    return y;
  } else {
    using U = Pack<uint32_t, sizeof(V) / sizeof(float)>;
    V shifted;
    const V p = exp_reduced<V, PackOps>(max_of_constant(V{} + kExpLowest, x), shifted);
    U bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + kFloatOne;
    V scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
  }
}
template <typename V>
SSD_SIMD_BODY inline V exp_fixed_pack(V x) {
  if constexpr (std::is_same_v<std::remove_cvref_t<decltype(x[0])>, double>) {
    return exp_negative_pack(x);
  } else {
    return exp_negative_pack(min_of(V{} + kExpHighest, x));
  }
}

// V: a Pack of float.
template <typename V>
SSD_SIMD_BODY inline V log_fixed_pack(V x) {
  constexpr int kLanes = sizeof(V) / sizeof(float);
  using I = Pack<int32_t, kLanes>;
  using U = Pack<uint32_t, kLanes>;
  U bits;
  std::memcpy(&bits, &x, sizeof bits);
  const I n = I(bits - kFloatRootHalf) >> 23;
  const U mantissa = bits - (U(n) << 23);
  V m;
  std::memcpy(&m, &mantissa, sizeof m);
  const V y = log_reduced<V, PackOps>(m - 1.0f, __builtin_convertvector(n, V));
  const V infinity = V{} + INFINITY;
  return x < infinity ? y : x;
}

}  // namespace ssd_cuda
