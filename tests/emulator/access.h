// What the access checker knows of memory: regions a kernel may touch, and for every few bytes of them who
// touched them last.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "scheduler.h"

#pragma GCC visibility push(hidden)

namespace emulator {

enum class Kind { kRead, kWrite, kVolatileRead, kVolatileWrite, kAtomic };

// One access: when (Block::interval), by which thread of its block, at which warp clock.
struct Access {
  uint64_t interval = 0;
  uint32_t warp_clock = 0;
  uint16_t thread = 0;
  bool atomic = false;      // atomic or volatile
  bool several = false;     // reads only: by several threads of one warp in this interval
  bool many_warps = false;  // reads only: by threads of several warps
};
struct Cell {
  Access write, read;
};

enum class Space { kGlobal, kDynamicShared, kStaticShared };

struct Region {
  unsigned char* begin;
  std::size_t bytes;
  std::string name;
  Space space;
  std::size_t granule;  // bytes a cell stands for
  bool initialized;
  std::unique_ptr<Cell[], decltype(&std::free)>
      cells;  // all zero is "never touched": pages come lazily

  Region(void* address, std::size_t size, std::string what, Space where, std::size_t bytes_per_cell)
      : begin(static_cast<unsigned char*>(address)),
        bytes(size),
        name(std::move(what)),
        space(where),
        granule(bytes_per_cell),
        initialized(false),
        cells(static_cast<Cell*>(std::calloc(size / bytes_per_cell + 1, sizeof(Cell))),
              &std::free) {}
};

// "file:line" of an address in this module's code.
std::string source_line(const void* code);

// Checks one access of the running kernel; reports out of bounds, misalignment, uninitialised reads and races.
void check_access(const volatile void* address, std::size_t bytes, Kind kind, const void* code);

}  // namespace emulator

#pragma GCC visibility pop
