// exp in fp32 with the same bits on every CPU, every vector width and every card, so that a score near the
// threshold falls on the same side everywhere. Library exps differ from each other in the last bits.
#pragma once

#include <cstring>

#include "host_device.h"

namespace ssd_cuda {

namespace detail {
SSD_HOST_DEVICE float bits_to_float(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
#endif
}
SSD_HOST_DEVICE uint32_t float_to_bits(float f) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(f);
#else
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
#endif
}
}  // namespace detail

// exp(x) = 2^n * e^r with n = round(x log2 e), r = x - n ln 2 and |r| <= ln 2 / 2. ln 2 is split in two so that
// n * kHigh is exact; e^r is a polynomial of degree 7. No operation is fused: at most 2 units in the last place.
// V is float, or a Pack with the operations in Ops. `shifted` returns n in its low mantissa bits.
template <typename V, typename Ops>
SSD_HOST_DEVICE V exp_reduced(V x, V& shifted) {
  constexpr float kLog2E = 1.44269504088896341f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  shifted = Ops::add(Ops::mul(x, kLog2E), kRound);
  const V n = Ops::add(shifted, -kRound);
  const V r = Ops::add(Ops::add(x, Ops::mul(n, -kHigh)), Ops::mul(n, -kLow));
  V p = Ops::add(Ops::mul(r, 1.9875691500e-4f), 1.3981999507e-3f);
  p = Ops::add(Ops::mul(p, r), 8.3334519073e-3f);
  p = Ops::add(Ops::mul(p, r), 4.1665795894e-2f);
  p = Ops::add(Ops::mul(p, r), 1.6666665459e-1f);
  p = Ops::add(Ops::mul(p, r), 5.0000001201e-1f);
  return Ops::add(Ops::add(Ops::mul(p, Ops::mul(r, r)), r), 1.0f);
}
constexpr float kExpLowest =
    -87.3f;  // below: 0 (the true value is under the smallest normal number)
constexpr float kExpHighest = 88.7f;  // above: +inf
constexpr uint32_t kFloatOne = 0x3f800000u;

struct ScalarOps {
  static SSD_HOST_DEVICE float add(float a, float b) { return add_rn(a, b); }
  static SSD_HOST_DEVICE float mul(float a, float b) { return mul_rn(a, b); }
};

// exp(x); NaN stays NaN.
SSD_HOST_DEVICE float exp_fixed(float x) {
  float shifted;
  const float p = exp_reduced<float, ScalarOps>(x, shifted);
  const float y =
      mul_rn(p, detail::bits_to_float((detail::float_to_bits(shifted) << 23) + kFloatOne));
  return x < kExpLowest ? 0.0f : x > kExpHighest ? detail::bits_to_float(0x7f800000u) : y;
}
SSD_HOST_DEVICE double exp_fixed(double x) { return std::exp(x); }

}  // namespace ssd_cuda
