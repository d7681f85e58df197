// Barriers, warp collectives and fences.
#pragma once

#include <cstring>
#include <type_traits>

#include "runtime.h"

#define EMULATOR_HERE \
  ::emulator::Site { file, line }
#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator {

template <typename T>
inline uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}
template <typename T>
inline T unpack(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

// The value of lane `source`, or a report when the mask does not name it.
template <typename T>
inline T shuffle(unsigned mask, T value, int source, Site site) {
  const uint64_t* values = meet_warp(Meeting::kShuffle, mask, pack(value), site);
  if (!(mask >> source & 1)) {
    fail("a shuffle reads lane " + std::to_string(source) + ", which its mask does not name", site);
  }
  return unpack<T>(values[source]);
}
inline void check_width(int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1))) {
    fail("the width of a shuffle must be a power of two up to 32, not " + std::to_string(width),
         site);
  }
}

// fold(a, b) over the values of the lanes in mask, in lane order.
template <typename T, typename Fold>
inline T reduce(unsigned mask, T value, Site site, Fold fold) {
  const uint64_t* values = meet_warp(Meeting::kReduce, mask, pack(value), site);
  const int first = __builtin_ctz(mask);
  T result = unpack<T>(values[first]);
  for (int i = first + 1; i < 32; ++i) {
    if (mask >> i & 1) result = fold(result, unpack<T>(values[i]));
  }
  return result;
}

}  // namespace emulator

inline void __syncthreads(EMULATOR_SITE) {
  ::emulator::meet_block(::emulator::Meeting::kBarrier, 0, EMULATOR_HERE);
}
inline int __syncthreads_count(int predicate, EMULATOR_SITE) {
  return ::emulator::meet_block(::emulator::Meeting::kCount, predicate, EMULATOR_HERE);
}
inline int __syncthreads_or(int predicate, EMULATOR_SITE) {
  return ::emulator::meet_block(::emulator::Meeting::kOr, predicate, EMULATOR_HERE) > 0;
}
inline int __syncthreads_and(int predicate, EMULATOR_SITE) {
  return ::emulator::meet_block(::emulator::Meeting::kAnd, predicate == 0, EMULATOR_HERE) == 0;
}

namespace emulator {

inline void cluster_arrive(EMULATOR_SITE) { arrive_at_cluster(false, EMULATOR_HERE); }
inline void cluster_arrive_own(EMULATOR_SITE) { arrive_at_cluster(true, EMULATOR_HERE); }
inline void cluster_wait(EMULATOR_SITE) { wait_for_cluster(EMULATOR_HERE); }
template <typename T>
inline T* shared_of_block(T* shared, unsigned rank, EMULATOR_SITE) {
  return static_cast<T*>(map_shared(shared, rank, EMULATOR_HERE));
}

}  // namespace emulator

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE) {
  ::emulator::meet_warp(::emulator::Meeting::kSync, mask, 0, EMULATOR_HERE);
}
inline void __threadfence() { ::emulator::on_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() { ::emulator::on_fence(); }
inline void __nanosleep(unsigned) { ::emulator::maybe_yield(); }
[[noreturn]] inline void __trap(EMULATOR_SITE) {
  ::emulator::fail("the kernel called __trap", EMULATOR_HERE);
}
// Any set of lanes that holds the caller is a legal answer; the smallest one hides no assumption.
inline unsigned __activemask() { return 1u << ::emulator::lane(); }

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_SITE) {
  ::emulator::check_width(width, EMULATOR_HERE);
  const int base = static_cast<int>(::emulator::lane()) & ~(width - 1);
  return ::emulator::shuffle(mask, value, base | (source & (width - 1)), EMULATOR_HERE);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, EMULATOR_SITE) {
  ::emulator::check_width(width, EMULATOR_HERE);
  const int lane = static_cast<int>(::emulator::lane()), source = lane ^ lane_mask;
  // A lane may read from its own or an earlier segment, not from a later one.
  const bool inside = source < (lane | (width - 1)) + 1;
  return ::emulator::shuffle(mask, value, inside ? source : lane, EMULATOR_HERE);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  ::emulator::check_width(width, EMULATOR_HERE);
  const int lane = static_cast<int>(::emulator::lane());
  const int source = lane - static_cast<int>(delta);
  const bool inside = source >= (lane & ~(width - 1));
  return ::emulator::shuffle(mask, value, inside ? source : lane, EMULATOR_HERE);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  ::emulator::check_width(width, EMULATOR_HERE);
  const int lane = static_cast<int>(::emulator::lane());
  const int source = lane + static_cast<int>(delta);
  const bool inside = source <= (lane | (width - 1));
  return ::emulator::shuffle(mask, value, inside ? source : lane, EMULATOR_HERE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  const uint64_t* votes =
      ::emulator::meet_warp(::emulator::Meeting::kVote, mask, predicate != 0, EMULATOR_HERE);
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1 && votes[i]) ballot |= 1u << i;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, EMULATOR_SITE) {
  const uint64_t word = ::emulator::pack(value);
  const uint64_t* values =
      ::emulator::meet_warp(::emulator::Meeting::kMatch, mask, word, EMULATOR_HERE);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1 && values[i] == word) same |= 1u << i;
  }
  return same;
}
template <typename T>
inline unsigned __match_all_sync(unsigned mask, T value, int* predicate, EMULATOR_SITE) {
  *predicate = __match_any_sync(mask, value, file, line) == mask;
  return *predicate ? mask : 0;
}

#define EMULATOR_REDUCE(type, name, expression)                                   \
  inline type __reduce_##name##_sync(unsigned mask, type value, EMULATOR_SITE) {  \
    return ::emulator::reduce(mask, value, EMULATOR_HERE,                         \
                              [](type a, type b) -> type { return expression; }); \
  }
EMULATOR_REDUCE(unsigned, add, a + b)
EMULATOR_REDUCE(unsigned, min, b < a ? b : a)
EMULATOR_REDUCE(unsigned, max, a < b ? b : a)
EMULATOR_REDUCE(unsigned, and, a& b)
EMULATOR_REDUCE(unsigned, or, a | b)
EMULATOR_REDUCE(unsigned, xor, a ^ b)
EMULATOR_REDUCE(int, min, b < a ? b : a)
EMULATOR_REDUCE(int, max, a < b ? b : a)
#undef EMULATOR_REDUCE
inline int __reduce_add_sync(unsigned mask, int value, EMULATOR_SITE) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), file, line));
}
