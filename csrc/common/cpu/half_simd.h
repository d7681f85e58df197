// Packs of float from float, half or bfloat16 in memory. The 16-bit types are anything of that size that the
// caller marks by its bits: Half has 5 exponent bits, BFloat16 8.
#pragma once

#include "simd.h"

namespace ssd_cuda {

// Whether the 16-bit type S is bfloat16: 1.0 is 0x3f80 there and 0x3c00 in half.
template <typename S>
inline bool is_bfloat16() {
  const S one(1.0f);
  uint16_t bits;
  std::memcpy(&bits, &one, sizeof bits);
  return bits == 0x3f80;
}

template <typename V, typename S>
SSD_SIMD_BODY inline V load_floats(const S* p) {
  if constexpr (sizeof(S) == 4) {
    return load_pack<V>(p);
  } else {
    constexpr int kLanes = sizeof(V) / sizeof(float);
    using H = Pack<uint16_t, kLanes>;
    using U = Pack<uint32_t, kLanes>;
    const H half = load_pack<H>(reinterpret_cast<const uint16_t*>(p));
    const U h = widen<U>(half);
    U bits;
    if (is_bfloat16<S>()) {
      bits = h << 16;
    } else if constexpr (kConvertsHalves<V>) {
      return halves_to_floats<V>(half);
    } else {
      const U sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
      // A subnormal half is an integer multiple of 2^-24; inf and NaN keep their mantissa.
      const V tiny =
          __builtin_convertvector(Pack<int32_t, kLanes>(rest), V) * 5.9604644775390625e-8f;
      U tiny_bits;
      std::memcpy(&tiny_bits, &tiny, sizeof bits);
      const U normal = (rest << 13) + (112u << 23), special = (rest << 13) | 0x7f800000u;
      bits = sign | (rest < 0x0400u ? tiny_bits : (rest >= 0x7c00u ? special : normal));
    }
    V result;
    std::memcpy(&result, &bits, sizeof bits);
    return result;
  }
}

}  // namespace ssd_cuda
