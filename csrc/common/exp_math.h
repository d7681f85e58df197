// exp and log in fp32 with the same bits on every CPU, every vector width and every card, so that a score near the
// threshold falls on the same side everywhere. Library functions differ from each other in the last bits.
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

// exp(x); NaN stays NaN. Out of range it is the scale that becomes 0 or infinity, with x cut so that the polynomial
// stays finite: no branch, so several of them overlap.
SSD_HOST_DEVICE float exp_fixed(float x) {
  const bool low = x < kExpLowest;
  const bool high = x > kExpHighest;
  float shifted;
  const float p = exp_reduced<float, ScalarOps>(low || high ? 0.0f : x, shifted);
  const uint32_t scale = (detail::float_to_bits(shifted) << 23) + kFloatOne;
  return mul_rn(p, detail::bits_to_float(low ? 0u : high ? 0x7f800000u : scale));
}
SSD_HOST_DEVICE double exp_fixed(double x) { return std::exp(x); }

// log(1 + x) for 1 + x in [sqrt(1/2), sqrt(2)): x - x^2 / 2 + x^3 * a polynomial of degree 8; plus n * ln 2 in two
// parts, for log(2^n * (1 + x)). log of 1 is exactly 0. At most 2 units in the last place.
template <typename V, typename Ops>
SSD_HOST_DEVICE V log_reduced(V x, V n) {
  const V z = Ops::mul(x, x);
  V p = Ops::add(Ops::mul(x, 7.0376836292e-2f), -1.1514610310e-1f);
  p = Ops::add(Ops::mul(p, x), 1.1676998740e-1f);
  p = Ops::add(Ops::mul(p, x), -1.2420140846e-1f);
  p = Ops::add(Ops::mul(p, x), 1.4249322787e-1f);
  p = Ops::add(Ops::mul(p, x), -1.6668057665e-1f);
  p = Ops::add(Ops::mul(p, x), 2.0000714765e-1f);
  p = Ops::add(Ops::mul(p, x), -2.4999993993e-1f);
  p = Ops::add(Ops::mul(p, x), 3.3333331174e-1f);
  p = Ops::mul(Ops::mul(p, x), z);
  p = Ops::add(p, Ops::mul(n, -2.12194440e-4f));
  p = Ops::add(p, Ops::mul(z, -0.5f));
  return Ops::add(Ops::add(x, p), Ops::mul(n, 0.693359375f));
}
constexpr uint32_t kFloatRootHalf = 0x3f3504f3u;  // sqrt(1/2)

// log(x) for a normal x > 0; +inf and NaN stay.
SSD_HOST_DEVICE float log_fixed(float x) {
  const uint32_t bits = detail::float_to_bits(x);
  const int32_t n = static_cast<int32_t>(bits - kFloatRootHalf) >> 23;
  const float m = detail::bits_to_float(bits - (static_cast<uint32_t>(n) << 23));
  const float y = log_reduced<float, ScalarOps>(add_rn(m, -1.0f), static_cast<float>(n));
  return x < detail::bits_to_float(0x7f800000u) ? y : x;
}
SSD_HOST_DEVICE double log_fixed(double x) { return std::log(x); }

}  // namespace ssd_cuda
