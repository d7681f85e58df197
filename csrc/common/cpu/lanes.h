// Few of many on the CPU: the marked bytes of an array, the set lanes of a mask, the keys in a range. Where nothing is
// set eight bytes, or a whole vector, are passed over at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "simd.h"

namespace ssd_cuda {

// fn(i) for every i in [0, count) whose byte is not 0, in order.
template <typename Fn>
SSD_SIMD_BODY inline void for_each_marked(const void* bytes, int64_t count, const Fn& fn) {
  const char* from = static_cast<const char*>(bytes);
  for (int64_t first = 0; first < count; first += 8) {
    uint64_t word = 0;
    if (first + 8 <= count) {
      std::memcpy(&word, from + first, 8);
    } else {
      std::memcpy(&word, from + first, static_cast<std::size_t>(count - first));
    }
    while (word != 0) {
      const int byte = __builtin_ctzll(word) / 8;
      fn(first + byte);
      word &= ~(uint64_t{0xff} << (8 * byte));
    }
  }
}

// Whether a lane of a mask (lanes 0 or -1) is set.
template <typename M>
SSD_SIMD_BODY inline bool any_lane(M mask) {
  uint64_t words[sizeof(M) / 8], all = 0;
  std::memcpy(words, &mask, sizeof(M));
  for (std::size_t i = 0; i < sizeof(M) / 8; ++i) all |= words[i];
  return all != 0;
}

// A mask (lanes 0 or -1) as bytes 0x00 or 0xff, lane by lane.
template <typename M>
struct LaneBytes {
  static constexpr int kLanes = sizeof(M) / sizeof(std::declval<M>()[0]);
  uint64_t words[(kLanes + 7) / 8] = {};

  SSD_SIMD_BODY explicit LaneBytes(M mask) { mask_bytes(mask, words); }
  // fn(lane) for every lane that is set, in order.
  template <typename Fn>
  SSD_SIMD_BODY void for_each(const Fn& fn) const {
    for_each_marked(words, sizeof words, fn);
  }
};

// Writes the indices i of [0, count) with low <= keys[i] <= high to list, in order; returns how many. U: an unsigned
// integer; list has room for count.
template <typename U>
int64_t list_in_range(const U* keys, int64_t count, U low, U high, int64_t* list) {
  const U span = high - low;
  int64_t n = 0;
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    constexpr int kLanes = decltype(bytes)::value / sizeof(U);
    using P = Pack<U, kLanes>;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const P above = load_pack<P>(keys + i) - low;
      LaneBytes(above <= span).for_each([&](int64_t lane) SSD_SIMD_BODY { list[n++] = i + lane; });
    }
    for (; i < count; ++i) {
      if (static_cast<U>(keys[i] - low) <= span) list[n++] = i;
    }
  });
  return n;
}

}  // namespace ssd_cuda
