// exp and log with the same bits on every CPU, every vector width and every card, so that a score near the threshold
// falls on the same side everywhere. Library functions differ from each other in the last bits: 1 in float32, and in
// float64 nvcc's from glibc's by up to 7.
//
// One formula serves numbers and vectors: V is float or double with ScalarOps, or a Pack of them with PackOps
// (common/cpu/exp_simd.h). float32 uses fused operations, the same ones everywhere. float64 uses none: a CPU without
// them calls a library function for each.
#pragma once

#include "host_device.h"

namespace ssd_cuda {

struct ScalarOps {
  template <typename V>
  using Lane = V;
  template <typename V>
  using Bits = std::conditional_t<sizeof(V) == 8, uint64_t, uint32_t>;
  template <typename V>
  static SSD_HOST_DEVICE V add(V a, V b) {
    return add_rn(a, b);
  }
  template <typename V>
  static SSD_HOST_DEVICE V mul(V a, V b) {
    return mul_rn(a, b);
  }
  template <typename V>
  static SSD_HOST_DEVICE V div(V a, V b) {
    return div_rn(a, b);
  }
  static SSD_HOST_DEVICE float fma(float a, float b, float c) { return fma_rn(a, b, c); }
  static SSD_HOST_DEVICE float max_of_constant(float a, float b) { return max_of(a, b); }
  static SSD_HOST_DEVICE float number(uint32_t n) {
    return static_cast<float>(static_cast<int32_t>(n));
  }
  static SSD_HOST_DEVICE uint32_t shift_signed(uint32_t n, int by) {
    return static_cast<uint32_t>(static_cast<int32_t>(n) >> by);
  }
};

constexpr float kExpLowest =
    -88.0f;  // n = -127, whose scale is 0: the result under the smallest normal number
constexpr float kExpHighest = 89.0f;  // n = 128, whose scale is +inf
constexpr uint32_t kFloatOne = 0x3f800000u;

namespace detail {

// exp(x) = 2^n * e^r with n = round(x log2 e), r = x - n ln 2 and |r| <= ln 2 / 2, for x in [kExpLowest, kExpHighest]
// or NaN. ln 2 is split in two so that n * kHigh is exact; e^r is 1 + r + r^2 * a minimax polynomial, 3e-9 from it.
// Less than 2 units in the last place. `shifted` returns n in its low mantissa bits.
template <typename Ops, typename V>
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

// The same in float64, of any x: at most 1 unit in the last place, subnormal results too. What rounding takes from r is
// added to it; the polynomial is 3.5e-18 from e^r. The scale comes in two factors, each a normal number.
template <typename Ops, typename V>
SSD_HOST_DEVICE V exp_wide(V x) {
  using U = typename Ops::template Bits<V>;
  const auto all = [](double value) { return V{} + value; };
  x = max_of(all(-746.0), min_of(all(710.0), x));  // 0 and +inf beyond; NaN stays
  const V round = all(6755399441055744.0);         // 1.5 * 2^52
  const V shifted = Ops::add(Ops::mul(x, all(1.4426950408889634)), round);
  const V n = Ops::add(shifted, -round);
  const V high = Ops::add(x, Ops::mul(n, all(-0.6931471803691238)));  // exact: 32 bits of ln 2
  const V low = Ops::mul(n, all(-1.9082149292705877e-10));
  const V r = Ops::add(high, low);
  const V lost = Ops::add(Ops::add(high, -r), low);
  V p = all(2.5117862569715746e-08);
  p = Ops::add(Ops::mul(p, r), all(2.763128046385698e-07));
  p = Ops::add(Ops::mul(p, r), all(2.7557216296083528e-06));
  p = Ops::add(Ops::mul(p, r), all(2.4801489941771576e-05));
  p = Ops::add(Ops::mul(p, r), all(0.0001984126991738903));
  p = Ops::add(Ops::mul(p, r), all(0.0013888888947016461));
  p = Ops::add(Ops::mul(p, r), all(0.008333333333307201));
  p = Ops::add(Ops::mul(p, r), all(0.04166666666651542));
  p = Ops::add(Ops::mul(p, r), all(0.166666666666667));
  p = Ops::add(Ops::mul(p, r), all(0.5000000000000012));
  p = Ops::add(Ops::add(lost, Ops::mul(Ops::mul(r, r), p)), r);
  p = Ops::add(p, all(1.0));
  const U exponent = bit_copy<U>(shifted) - bit_copy<U>(round);
  const U half = ((exponent + 2048u) >> 1) - 1024u;
  const V first = bit_copy<V>((half + 1023u) << 52);
  const V second = bit_copy<V>((exponent - half + 1023u) << 52);
  return Ops::mul(Ops::mul(p, first), second);
}

// log(2^n * (1 + x)) for 1 + x in [sqrt(1/2), sqrt(2)): x - x^2 / 2 + x^3 * a polynomial of degree 8; plus n * ln 2 in
// two parts. log of 1 is exactly 0. At most 2 units in the last place.
template <typename Ops, typename V>
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

// The same in float64: with s = x / (2 + x), log(1 + x) = x - x^2 / 2 + s (x^2 / 2 + a polynomial in s^2). At most 1
// unit in the last place.
template <typename Ops, typename V>
SSD_HOST_DEVICE V log_reduced_wide(V x, V n) {
  const auto all = [](double value) { return V{} + value; };
  const V s = Ops::div(x, Ops::add(all(2.0), x)), z = Ops::mul(s, s);
  V p = all(0.14796261859969342);
  p = Ops::add(Ops::mul(p, z), all(0.15314021042292603));
  p = Ops::add(Ops::mul(p, z), all(0.1818356541060023));
  p = Ops::add(Ops::mul(p, z), all(0.2222219855371162));
  p = Ops::add(Ops::mul(p, z), all(0.28571428742562993));
  p = Ops::add(Ops::mul(p, z), all(0.3999999999941396));
  p = Ops::add(Ops::mul(p, z), all(0.6666666666666734));
  const V half = Ops::mul(Ops::mul(all(0.5), x), x);
  V tail = Ops::mul(s, Ops::add(half, Ops::mul(z, p)));
  tail = Ops::add(tail, Ops::mul(n, all(1.9082149292705877e-10)));
  tail = Ops::add(Ops::add(half, -tail), -x);
  return Ops::add(Ops::mul(n, all(0.6931471803691238)), -tail);
}

// exp(x) of float32 as a number near 1 and a power of two, or 0 for it.
template <typename V>
struct ExpParts {
  V near_one, power;
};
template <typename Ops, typename V>
SSD_HOST_DEVICE ExpParts<V> exp_parts(V x) {
  using U = typename Ops::template Bits<V>;
  V shifted;
  const V p = exp_reduced<Ops>(Ops::max_of_constant(V{} + kExpLowest, x), shifted);
  return {p, bit_copy<V>((bit_copy<U>(shifted) << 23) + kFloatOne)};
}

}  // namespace detail

// exp(x) for x <= 0, as a softmax needs it; NaN stays NaN. No branch, so several of them overlap. In float32 a result
// below the smallest normal number is 0.
template <typename Ops, typename V>
SSD_HOST_DEVICE V exp_negative_by(V x) {
  if constexpr (std::is_same_v<typename Ops::template Lane<V>, double>) {
    return detail::exp_wide<Ops>(x);
  } else {
    const auto [near_one, power] = detail::exp_parts<Ops>(x);
    return Ops::mul(near_one, power);
  }
}

// sum + exp(x), x <= 0, in one operation less: the product with a power of two is exact. Where it is subnormal it is added
// unrounded, which no sum shows that holds exp(0) = 1 as well.
template <typename Ops, typename V>
SSD_HOST_DEVICE V add_exp_negative_by(V sum, V x) {
  if constexpr (std::is_same_v<typename Ops::template Lane<V>, double>) {
    return Ops::add(sum, detail::exp_wide<Ops>(x));
  } else {
    const auto [near_one, power] = detail::exp_parts<Ops>(x);
    return Ops::fma(near_one, power, sum);
  }
}

// exp(x); in float32 it is +inf above 88.37.
template <typename Ops, typename V>
SSD_HOST_DEVICE V exp_by(V x) {
  if constexpr (std::is_same_v<typename Ops::template Lane<V>, double>) {
    return detail::exp_wide<Ops>(x);
  } else {
    return exp_negative_by<Ops>(min_of(V{} + kExpHighest, x));
  }
}

// log(2^-scale * x) for a normal x > 0; +inf and NaN stay.
template <typename Ops, typename V>
SSD_HOST_DEVICE V log_normal_by(V x, V scale = V{}) {
  using U = typename Ops::template Bits<V>;
  V y;
  if constexpr (std::is_same_v<typename Ops::template Lane<V>, double>) {
    constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcdu;  // sqrt(1/2)
    // n + 1024 from the exponent, and the same as a number: in the low bits of 2^52.
    const U n = (bit_copy<U>(x) + ((uint64_t{1} << 62) - kRootHalf)) >> 52;
    const V number = Ops::add(bit_copy<V>(n | 0x4330000000000000u), V{} - 4503599627371520.0);
    const V m = bit_copy<V>(bit_copy<U>(x) - ((n - 1024u) << 52));
    y = detail::log_reduced_wide<Ops>(Ops::add(m, V{} - 1.0), Ops::add(number, -scale));
  } else {
    constexpr uint32_t kRootHalf = 0x3f3504f3u;
    const U n = Ops::shift_signed(bit_copy<U>(x) - kRootHalf, 23);
    const V m = bit_copy<V>(bit_copy<U>(x) - (n << 23));
    y = detail::log_reduced<Ops>(Ops::add(m, V{} - 1.0f), Ops::add(Ops::number(n), -scale));
  }
  return x < V{} + static_cast<typename Ops::template Lane<V>>(INFINITY) ? y : x;
}

// log(x) of any x, as the library has it: subnormal numbers too, -inf at 0, NaN below.
template <typename Ops, typename V>
SSD_HOST_DEVICE V log_by(V x) {
  using T = typename Ops::template Lane<V>;
  constexpr T kLeast = sizeof(T) == 8 ? T(2.2250738585072014e-308) : T(1.175494351e-38);
  constexpr T kBits = sizeof(T) == 8 ? 54 : 24;
  constexpr T kFactor = sizeof(T) == 8 ? T(18014398509481984.0) : T(16777216.0);
  const auto tiny = x < V{} + kLeast;
  const V y = log_normal_by<Ops>(tiny ? Ops::mul(x, V{} + kFactor) : x, tiny ? V{} + kBits : V{});
  const V at_zero = x < V{} ? V{} + T(NAN) : V{} - T(INFINITY);
  return x <= V{} ? at_zero : y;
}

template <typename T>
SSD_HOST_DEVICE T exp_negative(T x) {
  return exp_negative_by<ScalarOps>(x);
}
template <typename T>
SSD_HOST_DEVICE T add_exp_negative(T sum, T x) {
  return add_exp_negative_by<ScalarOps>(sum, x);
}
template <typename T>
SSD_HOST_DEVICE T exp_fixed(T x) {
  return exp_by<ScalarOps>(x);
}
// For a normal x > 0; +inf and NaN stay.
template <typename T>
SSD_HOST_DEVICE T log_normal(T x) {
  return log_normal_by<ScalarOps>(x);
}
template <typename T>
SSD_HOST_DEVICE T log_fixed(T x) {
  return log_by<ScalarOps>(x);
}

}  // namespace ssd_cuda
