// Runs a grid: blocks one after the other, the threads of a block as fibres that change places where they meet.
#include "scheduler.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "launch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

Block g_block;
bool g_in_kernel = false;
FiberPool g_fibers;
const void* g_host_frame = nullptr;

namespace {

Fiber g_host;
std::string g_failure;
bool g_failed = false;
uint64_t g_seed = 0;
Random g_random(0);
Order g_order = Order::kAscending;
std::unique_ptr<GuardedBuffer> g_dynamic;

Thread& current() { return g_block.threads[g_block.current]; }

[[noreturn]] void leave() {
  g_in_kernel = false;
  switch_fiber(g_fibers[g_block.current], g_host, true);
  __builtin_unreachable();
}

void thread_main() {
  arrived();
  g_block.body(g_block.argument);
  current().status = Status::kDone;
  ++g_block.done;
  leave();
}

unsigned take_ready() {
  std::vector<unsigned>& ready = g_block.ready;
  if (g_order == Order::kAnyThread) std::swap(ready[g_random.below(ready.size())], ready.back());
  const unsigned next = ready.back();
  ready.pop_back();
  return next;
}

void resume(unsigned number) {
  Thread& thread = g_block.threads[number];
  if (!thread.started) {
    thread.started = true;
    g_fibers.prepare(number, thread_main);
  }
  g_block.current = number;
  threadIdx = thread.index;
  g_in_kernel = true;
  switch_fiber(g_host, g_fibers[number]);
}

void begin_block(uint3 index, dim3 block) {
  blockIdx = index;
  g_block.done = g_block.at_barrier = 0;
  ++g_block.number;
  ++g_block.interval;
  std::vector<unsigned> all(g_block.count);
  for (unsigned i = 0; i < g_block.count; ++i) {
    all[i] = i;
    Thread& thread = g_block.threads[i];
    thread.status = Status::kReady;
    thread.started = false;
    thread.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    thread.warp_clock = 0;
  }
  g_block.ready.clear();
  make_ready(all);
  poison_static_shared(poison());
  g_dynamic->fill(poison());
  checker_begin_block();
}

void run_block() {
  while (g_block.done < g_block.count) {
    if (g_block.ready.empty()) fail(explain_deadlock());
    resume(take_ready());
    if (g_failed) {
      g_failed = false;
      throw Error(g_failure);
    }
  }
}

bool launchable(dim3 grid, dim3 block, std::size_t shared_bytes) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  return threads > 0 && threads <= 1024 && block.z <= 64 && grid.x > 0 && grid.x <= 0x7fffffffu &&
         grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
         shared_bytes <= kMaxSharedBytes;
}

}  // namespace

void set_seed(uint64_t seed) {
  g_seed = seed;
  g_random = Random(seed);
  g_order = seed == 0   ? Order::kAscending
            : seed == 1 ? Order::kDescending
            : seed % 2  ? Order::kWarpAtATime
                        : Order::kAnyThread;
}
uint64_t seed() { return g_seed; }

unsigned char poison() {
  constexpr unsigned char kBytes[] = {0xff, 0x00, 0x3c, 0x80, 0x7f};
  return kBytes[g_seed % sizeof(kBytes)];
}

void fail(const std::string& message) {
  if (!g_in_kernel) throw Error(message);
  g_failure =
      "block " + describe(blockIdx) + ", thread " + describe(current().index) + ": " + message;
  g_failed = true;
  leave();
}
void fail(const std::string& message, Site site) {
  fail(message + " (" + site.file + ":" + std::to_string(site.line) + ")");
}
void fail_in_kernel(const std::string& message, Site site) {
  if (g_in_kernel) fail(message, site);
}

std::string describe(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

void make_ready(const std::vector<unsigned>& threads) {
  std::vector<unsigned>& ready = g_block.ready;
  const std::size_t before = ready.size();
  ready.insert(ready.end(), threads.begin(), threads.end());
  const auto begin = ready.begin() + static_cast<std::ptrdiff_t>(before);
  if (g_order == Order::kAscending) std::reverse(begin, ready.end());  // the back runs first
  if (g_order == Order::kWarpAtATime) {
    g_random.shuffle(begin, ready.end());
    std::vector<unsigned> rank(g_block.count / 32 + 1);
    std::iota(rank.begin(), rank.end(), 0);
    g_random.shuffle(rank.begin(), rank.end());
    std::stable_sort(begin, ready.end(),
                     [&](unsigned a, unsigned b) { return rank[a / 32] < rank[b / 32]; });
  }
}

void suspend() {
  const unsigned number = g_block.current;
  g_in_kernel = false;
  switch_fiber(g_fibers[number], g_host);
}

void maybe_yield() {
  if (!g_in_kernel || g_order != Order::kAnyThread || g_random.below(4) != 0) return;
  g_block.ready.push_back(g_block.current);
  suspend();
}

void* dynamic_shared_memory() {
  if (!g_in_kernel) fail("dynamic shared memory exists inside a kernel only");
  return g_dynamic->data();
}

cudaError_t run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, void (*body)(void*),
                     void* argument) {
  if (g_in_kernel) fail("a kernel launches a kernel");
  if (!launchable(grid, block, shared_bytes)) {
    return cudaErrorInvalidConfiguration;
  }
  g_host_frame = __builtin_frame_address(0);
  gridDim = grid;
  blockDim = block;
  g_block.count = static_cast<std::size_t>(block.x) * block.y * block.z;
  if (g_block.threads.size() < g_block.count) g_block.threads.resize(g_block.count);
  g_block.body = body;
  g_block.argument = argument;
  g_dynamic = std::make_unique<GuardedBuffer>(shared_bytes, "the dynamic shared memory", true);
  checker_begin_launch();

  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (g_order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (g_seed > 1) g_random.shuffle(order.begin(), order.end());
  for (const uint64_t i : order) {
    begin_block({static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                 static_cast<unsigned>(i / grid.x / grid.y)},
                block);
    run_block();
  }
  check_buffers();
  return cudaSuccess;
}

}  // namespace emulator
