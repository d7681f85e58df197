// The calls g++ -fsanitize=thread puts before every load and store, answered by the access checker: libtsan itself
// is not linked. Kernels get checked access by access; the runtime, compiled without the flag, does not.
#include "access.h"

#define EMULATOR_CODE __builtin_return_address(0)
#define EMULATOR_HOOK(name, bytes, kind)                                         \
  extern "C" __attribute__((visibility("hidden"))) void __tsan_##name(void* p) { \
    ::emulator::check_alignment(p, bytes, EMULATOR_CODE);                        \
    ::emulator::check_access(p, bytes, ::emulator::Kind::kind, EMULATOR_CODE);   \
  }
// Accesses the compiler itself knows to be less aligned than wide: a memcpy of a few bytes.
#define EMULATOR_LOOSE_HOOK(name, bytes, kind)                                   \
  extern "C" __attribute__((visibility("hidden"))) void __tsan_##name(void* p) { \
    ::emulator::check_access(p, bytes, ::emulator::Kind::kind, EMULATOR_CODE);   \
  }
#define EMULATOR_HOOKS(bytes)                              \
  EMULATOR_HOOK(read##bytes, bytes, kRead)                 \
  EMULATOR_HOOK(write##bytes, bytes, kWrite)               \
  EMULATOR_LOOSE_HOOK(unaligned_read##bytes, bytes, kRead) \
  EMULATOR_LOOSE_HOOK(unaligned_write##bytes, bytes, kWrite)
EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("hidden"))) void
EMULATOR_EXPORT __tsan_read_range(void* p, unsigned long bytes) {
  ::emulator::check_access(p, bytes, ::emulator::Kind::kRead, EMULATOR_CODE);
}
EMULATOR_EXPORT __tsan_write_range(void* p, unsigned long bytes) {
  ::emulator::check_access(p, bytes, ::emulator::Kind::kWrite, EMULATOR_CODE);
}
EMULATOR_EXPORT __tsan_init() {}
EMULATOR_EXPORT __tsan_func_entry(void*) {}
EMULATOR_EXPORT __tsan_func_exit(void*) {}
EMULATOR_EXPORT __tsan_vptr_update(void**, void*) {}
EMULATOR_EXPORT __tsan_vptr_read(void**) {}

// The host's own atomics (reference counts, the guards of static locals). Device code has none: CUDA's go through
// before_atomic.
#define EMULATOR_ATOMIC_HOOKS(bits, type)                                                          \
  extern "C" __attribute__((visibility("hidden"))) type __tsan_atomic##bits##_load(                \
      const volatile type* p, int) {                                                               \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  EMULATOR_EXPORT __tsan_atomic##bits##_store(volatile type* p, type v, int) {                     \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  extern "C" __attribute__((visibility("hidden"))) type __tsan_atomic##bits##_exchange(            \
      volatile type* p, type v, int) {                                                             \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  extern "C" __attribute__((visibility("hidden"))) type __tsan_atomic##bits##_fetch_add(           \
      volatile type* p, type v, int) {                                                             \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  extern "C" __attribute__((visibility("hidden"))) type __tsan_atomic##bits##_fetch_sub(           \
      volatile type* p, type v, int) {                                                             \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  extern "C"                                                                                       \
      __attribute__((visibility("hidden"))) int __tsan_atomic##bits##_compare_exchange_strong(     \
          volatile type* p, type* expected, type v, int, int) {                                    \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
EMULATOR_ATOMIC_HOOKS(8, unsigned char)
EMULATOR_ATOMIC_HOOKS(16, unsigned short)
EMULATOR_ATOMIC_HOOKS(32, unsigned int)
EMULATOR_ATOMIC_HOOKS(64, unsigned long)
