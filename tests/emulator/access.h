// What the access checker knows of memory: regions a kernel may touch, and for every few bytes of them who
// touched them last.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <utility>
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

class Region {
 public:
  Region(void* address, std::size_t size, std::string what, Space where)
      : begin(static_cast<unsigned char*>(address)),
        bytes(size),
        name(std::move(what)),
        space(where),
        cells_(nullptr, &std::free) {
    refine(4);
  }

  bool covers(const unsigned char* address, std::size_t count) const {
    return address >= begin && address + count <= begin + bytes;
  }
  // The cells of [offset, offset + count): a cell stands for 4 bytes until an access is smaller or misaligned.
  std::pair<Cell*, Cell*> cells(std::size_t offset, std::size_t count) {
    if (granule_ == 4 && (offset | count) % 4 != 0) refine(1);
    return {&cells_[offset / granule_], &cells_[(offset + count - 1) / granule_] + 1};
  }

  unsigned char* const begin;
  const std::size_t bytes;
  const std::string name;
  const Space space;
  bool initialized = false;

 private:
  void refine(std::size_t granule) {
    // All zero is "never touched", and calloc takes a page only when it is.
    const std::size_t count = bytes / granule + 1;
    std::unique_ptr<Cell[], decltype(&std::free)> fine(
        static_cast<Cell*>(std::calloc(count, sizeof(Cell))), &std::free);
    if (!fine) throw std::bad_alloc();
    for (std::size_t i = 0; cells_ && i < count; ++i) fine[i] = cells_[i * granule / granule_];
    cells_ = std::move(fine);
    granule_ = granule;
  }
  std::size_t granule_ = 4;
  std::unique_ptr<Cell[], decltype(&std::free)> cells_;
};

// "file:line" of an address in this module's code.
std::string source_line(const void* code);

// Checks one access of the running kernel; reports out of bounds, misalignment, uninitialised reads and races.
void check_access(const volatile void* address, std::size_t bytes, Kind kind, const void* code);

}  // namespace emulator

#pragma GCC visibility pop
