// What the access checker knows of memory: regions a kernel may touch, and for every few bytes of them who
// touched them last.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler.h"

#pragma GCC visibility push(hidden)

namespace emulator {

// Volatile accesses are plain ones: they order nothing. A relaxed one may meet another at the same time. The begin of a
// copy is a write after which nothing is there yet.
enum class Kind { kRead, kWrite, kRelaxedRead, kRelaxedWrite, kAtomic, kCopyBegins };

// When something was done, and by whom.
struct Moment {
  uint64_t interval = 0;    // of the block (Block::interval)
  uint32_t warp_clock = 0;  // of the thread
  uint32_t tick =
      0;  // fences and global atomics before it in this launch: the order within a thread
  uint32_t block = 0;    // number in the launch
  uint32_t arrived = 0;  // cluster barriers before it, of the thread (Thread::arrived)
  uint16_t thread = 0;

  // Whether it is ordered before a later moment of the same block.
  bool before(const Moment& later) const {
    return interval < later.interval || (thread == later.thread && tick < later.tick) ||
           (thread / 32 == later.thread / 32 && warp_clock < later.warp_clock);
  }
};
// One access. All zero: never.
struct Access : Moment {
  bool atomic = false;  // atomic or relaxed
  // Of reads, and of atomic updates, which do not race with each other:
  bool several = false;      // by several threads of one warp in this interval
  bool many_warps = false;   // by threads of several warps
  bool many_blocks = false;  // by several blocks of the cluster since its last barrier
  bool far = false;          // a write to another block's memory
};
struct Cell {
  Access write, read;
};
// Zeros, of which a page is taken when it is touched: a buffer may be as large as the address space.
class Cells {
 public:
  explicit Cells(std::size_t count);
  ~Cells();
  Cells(Cells&& other) noexcept { swap(other); }
  Cells& operator=(Cells&& other) noexcept { return swap(other), *this; }
  Cell& operator[](std::size_t i) { return first_[i]; }

 private:
  void swap(Cells& other) {
    std::swap(first_, other.first_);
    std::swap(count_, other.count_);
  }
  Cell* first_ = nullptr;
  std::size_t count_ = 0;
};

enum class Space { kGlobal, kDynamicShared, kStaticShared };

class Region {
 public:
  Region(void* address, std::size_t size, std::string what, Space where)
      : begin(static_cast<unsigned char*>(address)),
        bytes(size),
        name(std::move(what)),
        space(where),
        marks_(size) {}

  bool covers(const unsigned char* address, std::size_t count) const {
    return address >= begin && address + count <= begin + bytes;
  }
  // The cells of [offset, offset + count): a cell stands for 4 bytes until an access is smaller or misaligned.
  std::pair<Cell*, Cell*> cells(std::size_t offset, std::size_t count) {
    if (marks_.granule == 4 && (offset | count) % 4 != 0) refine();
    const std::size_t first = offset / marks_.granule;
    const std::size_t last = (offset + count - 1) / marks_.granule;
    marks_.first = std::min(marks_.first, first);
    marks_.end = std::max(marks_.end, last + 1);
    return {&marks_.cells[first], &marks_.cells[last] + 1};
  }

  // What is known of the region. Static shared memory is one region, and each block in flight has marks of its own.
  struct Marks {
    explicit Marks(std::size_t bytes) : cells(bytes / 4 + 1) {}
    Cells cells;
    std::size_t granule = 4;
    std::size_t first = SIZE_MAX, end = 0;  // cells outside were never asked for: they are zeros
  };
  void exchange(Marks& other) { std::swap(marks_, other); }

  unsigned char* const begin;
  const std::size_t bytes;
  const std::string name;
  const Space space;
  bool initialized = false;
  uint64_t last_launch = 0;  // that touched it

 private:
  void refine() {
    Cells fine(bytes + 1);
    if (marks_.end > 0) {
      marks_.first *= 4;
      marks_.end = std::min(marks_.end * 4, bytes);
    }
    for (std::size_t i = marks_.first; i < marks_.end; ++i) fine[i] = marks_.cells[i / 4];
    marks_.cells = std::move(fine);
    marks_.granule = 1;
  }
  Marks marks_;
};

// "file:line" of an address in this module's code.
std::string source_line(const void* code);

// Checks one access of the running kernel; reports out of bounds, misalignment, uninitialised reads and races.
void check_access(const volatile void* address, std::size_t bytes, Kind kind, const void* code);

}  // namespace emulator

#pragma GCC visibility pop
