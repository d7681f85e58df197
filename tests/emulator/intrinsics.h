// Arithmetic and bit intrinsics. The approximate float ones (__expf, __fdividef ...) are computed as exactly as
// the host can: the hardware's error is part of no kernel's contract.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "types.h"

// Bits.
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return std::countl_zero(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1u) << (31 - i);
  return r;
}
inline unsigned long long __brevll(unsigned long long v) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(v))) << 32 |
         __brev(static_cast<unsigned>(v >> 32));
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(hi) << 32 | lo) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = selector >> (4 * i) & 15;
    unsigned b = static_cast<unsigned>(bytes >> (8 * (s & 7))) & 255;
    if (s & 8) b = b & 128 ? 255 : 0;
    r |= b << (8 * i);
  }
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// The bits of a number.
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline int __double2hiint(double v) { return static_cast<int>(std::bit_cast<uint64_t>(v) >> 32); }
inline int __double2loint(double v) { return static_cast<int>(std::bit_cast<uint64_t>(v)); }

// Separately rounded operations. The module is compiled with -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// Approximations.
// glibc's math.h already declares __expf and friends as its own internal names.
#define __expf(v) ::std::exp(static_cast<float>(v))
#define __logf(v) ::std::log(static_cast<float>(v))
#define __log2f(v) ::std::log2(static_cast<float>(v))
#define __log10f(v) ::std::log10(static_cast<float>(v))
#define __powf(a, b) ::std::pow(static_cast<float>(a), static_cast<float>(b))
#define __sinf(v) ::std::sin(static_cast<float>(v))
#define __cosf(v) ::std::cos(static_cast<float>(v))
inline float __fdividef(float a, float b) { return a / b; }
inline float __frsqrt_rn(float v) { return static_cast<float>(1.0 / std::sqrt(double(v))); }
inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
inline float rsqrtf(float v) { return __frsqrt_rn(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }

// Conversions. A GPU saturates where C++ is undefined, and turns NaN into 0.
namespace emulator {
template <typename To, typename From>
inline To saturate(From v) {
  constexpr To lowest = std::numeric_limits<To>::min(), highest = std::numeric_limits<To>::max();
  if (v != v) return 0;
  if (v <= static_cast<From>(lowest)) return lowest;
  if (v >= static_cast<From>(highest)) return highest;
  return static_cast<To>(v);
}
}  // namespace emulator
inline int __float2int_rn(float v) { return emulator::saturate<int>(std::nearbyint(v)); }
inline int __float2int_rz(float v) { return emulator::saturate<int>(std::trunc(v)); }
inline int __float2int_rd(float v) { return emulator::saturate<int>(std::floor(v)); }
inline int __float2int_ru(float v) { return emulator::saturate<int>(std::ceil(v)); }
inline unsigned __float2uint_rn(float v) { return emulator::saturate<unsigned>(std::nearbyint(v)); }
inline unsigned __float2uint_rz(float v) { return emulator::saturate<unsigned>(std::trunc(v)); }
inline long long __double2ll_rn(double v) {
  return emulator::saturate<long long>(std::nearbyint(v));
}
inline float __int2float_rn(int v) { return static_cast<float>(v); }
inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
inline float __ll2float_rn(long long v) { return static_cast<float>(v); }
inline float __double2float_rn(double v) { return static_cast<float>(v); }

// min and max as CUDA overloads them; the float ones prefer a number to a NaN.
#define EMULATOR_MIN_MAX(type)                              \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
