// What the device-side headers and the bindings ask of the emulator's runtime (the .cpp files of this folder).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "types.h"

#pragma GCC visibility push(hidden)

// The built-in variables. The scheduler sets them each time it resumes a thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

namespace emulator {

// A defect of a kernel: thrown out of the launch, after every thread of the block is abandoned.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The line of kernel code that called a primitive.
struct Site {
  const char* file;
  int line;
};

// Order of threads, warps and blocks, and the poison byte, follow from the seed alone. Seed 0: ascending order, 1:
// descending, a block after the other; from 2 on several blocks are in flight at once.
void set_seed(uint64_t seed);
uint64_t seed();

// Of every grid only the last blocks are run, those with the largest indices; 0: all.
void set_last_blocks(uint64_t count);

// Reports a defect: never returns, in a kernel nor on the host.
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void fail(const std::string& message, Site site);
// The same inside a kernel; nothing on the host, whose undefined behaviour is not the emulator's to judge.
void fail_in_kernel(const std::string& message, Site site);

// Whether a kernel may begin before the one before it has ended; kBeside: and may touch what that one does not before it
// waits.
enum class Overlap { kNone, kWaits, kBeside };

// Runs body(argument) once per thread of the grid. Errors a GPU would return are returned.
struct Launch {
  dim3 grid, block;
  unsigned cluster;  // blocks
  std::size_t shared_bytes;
  Overlap overlap;
};
cudaError_t run_grid(const void* kernel, const Launch& launch, void (*body)(void*), void* argument);

// Says that the running thread has waited for the kernel before this one.
void after_previous_kernel();
// The same, and that the next kernel may begin beside this one.
void after_all_before();
// The host does something of its own between two kernels.
void end_of_kernels();

void* dynamic_shared_memory();

// What the lanes of a warp, the threads of a block, or those of a cluster can meet for. Meeting for two different things is a defect.
enum class Meeting {
  kSync,
  kShuffle,
  kVote,
  kMatch,
  kReduce,
  kBarrier,
  kCount,
  kAnd,
  kOr,
  kCluster
};
const char* name(Meeting meeting);

// Waits until every lane that mask names has called with the same mask and meeting; then the 32 values (those of
// lanes outside the mask are meaningless). The pointer is good until this thread's next call.
const uint64_t* meet_warp(Meeting meeting, unsigned mask, uint64_t value, Site site);
unsigned lane();

// Waits for every thread of the block; the number of threads whose predicate is not zero.
int meet_block(Meeting meeting, int predicate, Site site);

// The block in its cluster, and the two halves of a barrier for all threads of the cluster. own: it orders writes to the
// block's own shared memory alone, and reads.
unsigned cluster_size();
unsigned cluster_rank();
void arrive_at_cluster(bool own, Site site);
void wait_for_cluster(Site site);
// The same place in the dynamic shared memory of another block of the cluster.
void* map_shared(const void* shared, unsigned rank, Site site);

// Lets another thread go first, when the seed says so: what may happen between any two instructions. Where the thread
// is about to touch `global` memory that others wait for, perhaps one of another block.
void maybe_yield(const volatile void* global = nullptr);

// Called before every atomic on [address, address + bytes).
void before_atomic(const volatile void* address, std::size_t bytes, Site site);
void on_fence();
// Called before a load or a store that may meet others of its kind at the same bytes.
void before_relaxed(const volatile void* address, std::size_t bytes, bool writes);

// 16 bytes that a thread has asked for by cp.async. They are on their way until it waits: only then are they copied. Until
// then there is poison, which nobody has written; that it comes there is checked as a write is.
struct AsyncCopy {
  void* to;
  const void* from;
  unsigned group = 0;  // of its thread
};
constexpr std::size_t kCopyBytes = 16;
void begin_copy(AsyncCopy copy);

// While one lives the running thread reads from L2: an L1 may hold what was there before the kernel that it runs beside.
struct PastL1 {
  PastL1();
  ~PastL1();
};
void end_copy_group();
// Takes the oldest of the running thread's copies if its group has ended and is none of the `newest` last; false where there
// is none.
bool next_copy(unsigned newest, AsyncCopy& copy);

// The byte that fills shared memory between blocks and outputs before a launch; it depends on the seed.
unsigned char poison();

// Tells the access checker that the host has filled these bytes.
void checker_mark_initialized(void* address, std::size_t bytes);

// Memory a kernel may touch: payload between guards. In a sanitizer build the guards are poisoned; in any build
// they hold a pattern, and check() reports a write over it.
class GuardedBuffer {
 public:
  // what: how a report calls the buffer. The payload starts `misalign` bytes after a multiple of 256.
  GuardedBuffer(std::size_t bytes, std::string what, bool shared = false, std::size_t misalign = 0);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  void* data() const { return payload_; }
  std::size_t size() const { return bytes_; }
  void fill(unsigned char byte);
  // Run after every launch.
  void check() const;

 private:
  std::size_t bytes_;
  std::string what_;
  unsigned char* allocation_;
  std::size_t allocated_;
  unsigned char* payload_;
};

}  // namespace emulator

#pragma GCC visibility pop
