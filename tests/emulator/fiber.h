// Stacks and the switch between them: one fibre per CUDA thread, all on one OS thread.
#pragma once

#include <cstddef>
#include <vector>

#pragma GCC visibility push(hidden)

namespace emulator {

struct Fiber {
  void* context = nullptr;  // the saved stack pointer, or a ucontext_t
  unsigned char* stack = nullptr;
  std::size_t stack_bytes = 0;
};

// The stacks, with an inaccessible page below each: a kernel that overflows its stack faults at once.
class FiberPool {
 public:
  ~FiberPool();
  // Makes fibre i ready to run entry() from its start; entry never returns.
  void prepare(std::size_t i, void (*entry)());
  Fiber& operator[](std::size_t i) { return fibers_[i]; }
  // Gives back the stacks beyond the first `count` or a few more: each takes two of the 65,530 mappings that a process may
  // have, and a process of tests has the pools of some twenty modules.
  void keep(std::size_t count);
  // Whether the address is on the stack of some fibre.
  bool owns(const void* address) const;

 private:
  void grow(std::size_t count);
  std::vector<Fiber> fibers_;
  std::vector<unsigned char*> slabs_;
};

// Saves the running context in `from` and resumes `to`. leaving: `from` will never be resumed.
void switch_fiber(Fiber& from, Fiber& to, bool leaving = false);
// First thing a fibre does, and what follows every switch_fiber that returns.
void arrived();

}  // namespace emulator

#pragma GCC visibility pop
