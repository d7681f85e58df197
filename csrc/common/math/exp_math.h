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

struct ScalarOps {
  static SSD_HOST_DEVICE float add(float a, float b) { return add_rn(a, b); }
  static SSD_HOST_DEVICE float mul(float a, float b) { return mul_rn(a, b); }
  static SSD_HOST_DEVICE float fma(float a, float b, float c) { return fma_rn(a, b, c); }
};

constexpr float kExpLowest =
    -88.0f;  // n = -127, whose scale is 0: the result under the smallest normal number
constexpr float kExpHighest = 89.0f;  // n = 128, whose scale is +inf
constexpr uint32_t kFloatOne = 0x3f800000u;

// exp(x) = 2^n * e^r with n = round(x log2 e), r = x - n ln 2 and |r| <= ln 2 / 2, for x in [kExpLowest, kExpHighest]
// or NaN. ln 2 is split in two so that n * kHigh is exact; e^r is 1 + r + r^2 * a minimax polynomial, 3e-9 from it.
// The fused operations are written, the same ones everywhere: at most 1 unit in the last place.
// V is float, or a Pack with the operations in Ops. `shifted` returns n in its low mantissa bits.
template <typename V, typename Ops>
SSD_HOST_DEVICE V exp_reduced(V x, V& shifted) {
  const auto all = [](float value) { return V{} + value; };
  const V round = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  shifted = Ops::fma(x, all(1.44269504088896341f), round);
  const V n = Ops::add(shifted, -round);
  const V r = Ops::fma(n, all(2.12194440e-4f), Ops::fma(n, all(-0.693359375f), x));
  V p = Ops::fma(all(1.381454e-3f), r, all(8.368745e-3f));
  p = Ops::fma(p, r, all(4.166839e-2f));
  p = Ops::fma(p, r, all(1.6666521e-1f));
  p = Ops::fma(p, r, all(4.9999994e-1f));
  return Ops::fma(Ops::fma(p, r, all(1.0f)), r, all(1.0f));
}

// exp(x) for x <= 0, as a softmax needs it; NaN stays NaN. No branch, so several of them overlap.
SSD_HOST_DEVICE float exp_negative(float x) {
  float shifted;
  const float p = exp_reduced<float, ScalarOps>(max_of(kExpLowest, x), shifted);
  return mul_rn(p, detail::bits_to_float((detail::float_to_bits(shifted) << 23) + kFloatOne));
}
SSD_HOST_DEVICE double exp_negative(double x) { return std::exp(x); }

// exp(x); above 88.37 it is +inf.
SSD_HOST_DEVICE float exp_fixed(float x) { return exp_negative(min_of(kExpHighest, x)); }
SSD_HOST_DEVICE double exp_fixed(double x) { return std::exp(x); }

// log(1 + x) for 1 + x in [sqrt(1/2), sqrt(2)): x - x^2 / 2 + x^3 * a polynomial of degree 8; plus n * ln 2 in two
// parts, for log(2^n * (1 + x)). log of 1 is exactly 0. At most 2 units in the last place.
template <typename V, typename Ops>
SSD_HOST_DEVICE V log_reduced(V x, V n) {
  const auto all = [](float value) { return V{} + value; };
  const V z = Ops::mul(x, x);
  V p = Ops::fma(x, all(7.0376836292e-2f), all(-1.1514610310e-1f));
  p = Ops::fma(p, x, all(1.1676998740e-1f));
  p = Ops::fma(p, x, all(-1.2420140846e-1f));
  p = Ops::fma(p, x, all(1.4249322787e-1f));
  p = Ops::fma(p, x, all(-1.6668057665e-1f));
  p = Ops::fma(p, x, all(2.0000714765e-1f));
  p = Ops::fma(p, x, all(-2.4999993993e-1f));
  p = Ops::fma(p, x, all(3.3333331174e-1f));
  p = Ops::fma(Ops::mul(p, x), z, Ops::mul(n, all(-2.12194440e-4f)));
  p = Ops::fma(z, all(-0.5f), p);
  return Ops::fma(n, all(0.693359375f), Ops::add(x, p));
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
