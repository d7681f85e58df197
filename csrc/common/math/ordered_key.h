// Floats as unsigned integers of the same order, and back: what a selection, a sort or an atomic maximum compares.
#pragma once

#include <type_traits>

#include "host_device.h"

namespace ssd_cuda {

// uint32_t for float, uint64_t for double.
template <typename T>
using Ordered = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// Larger key, larger integer; -0 equals +0; every NaN is the largest integer.
template <typename T>
SSD_HOST_DEVICE Ordered<T> ordered_key(T key) {
  using U = Ordered<T>;
  constexpr int kLast = 8 * sizeof(U) - 1;
  const U bits = bit_copy<U>(key + T(0));     // -0 + 0 is +0
  const U negative = U(0) - (bits >> kLast);  // all ones, or 0: no branch, on either device
  return key != key ? ~U(0) : bits ^ (negative | U(1) << kLast);
}

// The key of ordered_key; NaN for the largest integer.
template <typename T>
SSD_HOST_DEVICE T key_value(Ordered<T> ordered) {
  using U = Ordered<T>;
  constexpr U kSign = U(1) << (8 * sizeof(U) - 1);
  return bit_copy<T>(ordered & kSign ? U(ordered & ~kSign) : U(~ordered));
}

}  // namespace ssd_cuda
