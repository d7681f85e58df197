// The calls g++ -fsanitize=undefined puts where C++ leaves the result undefined, answered by a report: libubsan
// itself is not linked. A call's first argument starts with the place in the source.
#include "runtime.h"

namespace {

struct Place {
  const char* file;
  uint32_t line, column;
};

void report(const char* what, const void* data) {
  const auto* place = static_cast<const Place*>(data);
  emulator::fail_in_kernel(what, {place->file, static_cast<int>(place->line)});
}

}  // namespace

#define EMULATOR_UNDEFINED(name, what, ...)                                                    \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(void* data,      \
                                                                              ##__VA_ARGS__) { \
    report(what, data);                                                                        \
  }
EMULATOR_UNDEFINED(out_of_bounds, "an index outside its array", void*)
EMULATOR_UNDEFINED(shift_out_of_bounds, "a shift by more bits than there are", void*, void*)
EMULATOR_UNDEFINED(add_overflow, "a signed sum overflows", void*, void*)
EMULATOR_UNDEFINED(sub_overflow, "a signed difference overflows", void*, void*)
EMULATOR_UNDEFINED(mul_overflow, "a signed product overflows", void*, void*)
EMULATOR_UNDEFINED(negate_overflow, "a signed negation overflows", void*)
EMULATOR_UNDEFINED(divrem_overflow, "an integer division by zero, or one that overflows", void*,
                   void*)
EMULATOR_UNDEFINED(float_cast_overflow, "a float does not fit the integer it is cast to", void*)
EMULATOR_UNDEFINED(builtin_unreachable, "code that cannot be reached is reached")
EMULATOR_UNDEFINED(missing_return, "a function ends without its result")
