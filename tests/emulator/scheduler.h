// The state of the block being run, shared by scheduler.cpp, meetings.cpp and access.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

#pragma GCC visibility push(hidden)

namespace emulator {

enum class Status : unsigned char { kReady, kAtWarp, kAtBlock, kAtCluster, kDone };

struct Thread {
  Status status = Status::kReady;
  bool started = false;
  bool after_previous = false;  // it has waited for the kernel before this one
  bool past_l1 = false;         // see PastL1
  bool after_all = false;       // and let the next one in behind that
  uint3 index{};
  // What the thread waits for.
  Meeting meeting{};
  unsigned mask = 0;
  int predicate = 0;
  uint64_t value = 0;
  Site site{};
  // What the last meeting gave it.
  uint64_t gathered[32];
  int count = 0;
  // Number of __syncwarp passed, made equal among those that meet: orders accesses within a warp.
  uint32_t warp_clock = 0;
  // Of the cluster's barriers: how many it has arrived at, how many it has left, and the last of these that orders all.
  uint32_t arrived = 0, left = 0, left_whole = 0;
  bool arrived_own = false;
  std::vector<AsyncCopy> copies;  // on their way, the oldest last
  unsigned copy_groups = 0;       // that have ended
};

// The lanes of a warp at a glance: most of them wait for the same thing, and are asked at each of their meetings.
struct Warp {
  unsigned running = 0;  // launched and not finished
  unsigned waiting = 0;  // Status::kAtWarp
  // What all that wait are waiting for, where they are alike.
  bool alike = true;
  unsigned mask = 0;
  Meeting meeting{};
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x1234567) {}
  uint64_t operator()() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>((*this)() % n); }
  template <typename T>
  void shuffle(T begin, T end) {
    for (std::size_t n = static_cast<std::size_t>(end - begin); n > 1; --n) {
      std::swap(begin[n - 1], begin[below(n)]);
    }
  }

 private:
  uint64_t state_;
};

// How the next thread is chosen among those that can run.
enum class Order { kAscending, kDescending, kWarpAtATime, kAnyThread };

struct Block;

// Blocks that run at the same time: those of neighbouring numbers, in flight together. Most clusters have one.
struct Cluster {
  std::vector<Block*> blocks;  // by rank
  uint32_t barriers = 0;       // that all threads have arrived at
  std::size_t arrived = 0;     // threads at the next one
  Site site{};                 // of these
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned>
      ready;              // thread numbers; taken from the back, or from anywhere (kAnyThread)
  std::size_t count = 0;  // threads of the block
  std::size_t done = 0;
  std::size_t at_barrier = 0;
  unsigned current = 0;
  uint3 index{};
  uint32_t log = 0;  // number of the block in its launch
  // A new one at the start and at each barrier, different from any other block's: equal means unordered by a barrier.
  uint64_t interval = 0, first_interval = 0;
  std::size_t slot = 0;  // among the blocks in flight: which fibres are its threads
  std::unique_ptr<GuardedBuffer> dynamic;
  std::vector<unsigned char> parked;  // its static shared memory while another block runs
  Cluster* cluster = nullptr;
  unsigned rank = 0;
  // Others use its shared memory until all arrive at this barrier of the cluster, so that it has to wait for it; and who.
  uint32_t needed = 0;
  std::string needed_by;

  bool ended() const { return done == count; }
};

extern Block* g_block;       // the one that runs
extern uint64_t g_interval;  // the last that a block has taken
extern bool g_in_kernel;     // a fibre is running, not the host
extern FiberPool g_fibers;
extern const void*
    g_host_frame;  // where the host's stack stood at the launch: kernel arguments lie above
inline Fiber& fiber_of(unsigned thread) {
  return g_fibers[g_block->slot * g_block->count + thread];
}

// Parks the running thread and runs others until somebody makes it ready again.
void suspend();
// Whether the running thread may not touch global memory yet: the kernel before this one may still run.
Overlap comes_early();  // of the running thread, before it has waited
bool reads_past_l1();   // of the running thread: see PastL1
void make_ready(Block& block, const std::vector<unsigned>& threads);
// What a thread owes its cluster when it ends.
void leave_cluster(const Thread& thread);
// Notes an access to the dynamic shared memory of another block; what is wrong with it, if anything is.
std::string reach_other_block(const void* memory);
// Of the launch: blocks of a cluster.
extern unsigned g_cluster_size;
// Why no thread can run; called when some have not finished.
std::string explain_deadlock();
std::string describe(uint3 index);

// Reports a write outside any live GuardedBuffer.
void check_buffers();

// Static shared variables of this module.
void poison_static_shared(unsigned char byte);
struct SharedVariable {
  unsigned char* address;
  std::size_t bytes;
  std::string name;
};
const std::vector<SharedVariable>& static_shared();

// Whether the address lies in the code or data of this module.
bool in_module(const void* address);

// The access checker (access.cpp); does nothing unless EMULATOR_CHECKED is defined.
void checker_begin_launch();
void checker_begin_block();
// What is known of static shared memory changes places with what was known for another block in flight.
void checker_exchange_static(std::size_t slot);
// The bytes of the static shared variables that this launch has touched.
std::size_t checker_static_bytes();
void checker_register(void* address, std::size_t bytes, const std::string& what, bool shared);
void checker_forget(void* address);
void check_copy_begins(const AsyncCopy& copy, const void* code);
void report_misaligned(std::size_t bytes, const void* code);
// bytes is a power of two: a division would be a tenth of the checker's time.
inline void check_alignment(const volatile void* address, std::size_t bytes, const void* code) {
  if ((reinterpret_cast<uintptr_t>(address) & (bytes - 1)) == 0 || !g_in_kernel) return;
  report_misaligned(bytes, code);
}

}  // namespace emulator

#pragma GCC visibility pop
