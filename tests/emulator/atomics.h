// Atomics, the cached loads and stores, copies past the registers. Threads are fibres of one OS thread, so a plain read-modify-write is
// atomic; what a GPU adds, the order in which threads arrive, comes from the scheduler.
#pragma once

#include "runtime.h"
#include "sync.h"
#include "types.h"

namespace emulator {

// Hidden from the access checker, which is told of an atomic by before_atomic.
template <typename T, typename Update>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* address, Update update, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  before_atomic(address, sizeof(T), site);
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace emulator

#define EMULATOR_ATOMIC(type, name, expression)                                    \
  inline type atomic##name(type* address, type value, EMULATOR_SITE) {             \
    return ::emulator::atomic(                                                     \
        address, [value](type old) -> type { return expression; }, EMULATOR_HERE); \
  }                                                                                \
  inline type atomic##name##_block(type* address, type value, EMULATOR_SITE) {     \
    return atomic##name(address, value, file, line);                               \
  }
#define EMULATOR_ATOMICS(type)                          \
  EMULATOR_ATOMIC(type, Min, value < old ? value : old) \
  EMULATOR_ATOMIC(type, Max, old < value ? value : old) \
  EMULATOR_ATOMIC(type, And, old& value)                \
  EMULATOR_ATOMIC(type, Or, old | value)                \
  EMULATOR_ATOMIC(type, Xor, old ^ value)               \
  EMULATOR_ATOMIC(type, Exch, value)
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
EMULATOR_ATOMIC(long long, Min, value < old ? value : old)
EMULATOR_ATOMIC(long long, Max, old < value ? value : old)
EMULATOR_ATOMIC(float, Exch, value)
EMULATOR_ATOMIC(unsigned, Add, old + value)
EMULATOR_ATOMIC(unsigned long long, Add, old + value)
EMULATOR_ATOMIC(int, Add,
                static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
EMULATOR_ATOMIC(unsigned, Sub, old - value)
EMULATOR_ATOMIC(int, Sub,
                static_cast<int>(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
EMULATOR_ATOMIC(unsigned, Inc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(unsigned, Dec, old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC

#define EMULATOR_CAS(type)                                                           \
  inline type atomicCAS(type* address, type expected, type desired, EMULATOR_SITE) { \
    return ::emulator::atomic(                                                       \
        address, [=](type old) -> type { return old == expected ? desired : old; },  \
        EMULATOR_HERE);                                                              \
  }
EMULATOR_CAS(int)
EMULATOR_CAS(unsigned)
EMULATOR_CAS(unsigned long long)
#undef EMULATOR_CAS

namespace emulator {

// The value that was stored last: the device may give an older one, so nothing may depend on it.
template <typename T>
__attribute__((noinline, no_sanitize("thread"))) T load_relaxed(const T* address) {
  before_relaxed(address, sizeof(T), false);
  return *address;
}
template <typename T>
__attribute__((noinline, no_sanitize("thread"))) void store_relaxed(T* address, T value) {
  before_relaxed(address, sizeof(T), true);
  *address = value;
}

// cp.async, the end of a group of them, and the wait for all groups of the thread but the newest.
inline void copy_async(uint4* to, const uint4* from) { begin_copy({to, from}); }
inline void end_copies() { end_copy_group(); }
inline void wait_copies(unsigned newest) {
  AsyncCopy copy;
  const PastL1 reads;
  while (next_copy(newest, copy))
    *static_cast<uint4*>(copy.to) = *static_cast<const uint4*>(copy.from);
}

}  // namespace emulator

// Cache hints change no value.
#define EMULATOR_LOAD(name)         \
  template <typename T>             \
  inline T name(const T* address) { \
    return *address;                \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
#undef EMULATOR_LOAD
template <typename T>
inline T __ldcg(const T* address) {
  const emulator::PastL1 reads;
  return *address;
}
#define EMULATOR_STORE(name)                                    \
  template <typename T>                                         \
  inline void name(T* address, std::type_identity_t<T> value) { \
    *address = value;                                           \
  }
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)
#undef EMULATOR_STORE
