// Runs a grid: a few blocks at a time, the threads of a block as fibres that change places where they meet.
#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "launch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {

uint64_t g_interval = 1;  // no block's: the host's (checker_mark_initialized)
bool g_in_kernel = false;
FiberPool g_fibers;
constexpr std::size_t kKeptFibers = 1024;  // between launches: most need no more

// At the end of a launch, however it ends.
struct KeepFew {
  ~KeepFew() { g_fibers.keep(kKeptFibers); }
};
const void* g_host_frame = nullptr;

namespace {

Fiber g_host;
std::string g_failure;
bool g_failed = false;
uint64_t g_seed = 0;
Random g_random(0);
Order g_order = Order::kAscending;
uint64_t g_last_blocks = 0;
bool g_switch = false;  // another block shall go on

// Blocks in flight: two of 1024 threads, four of up to 512; of one cluster all.
constexpr std::size_t kMostInFlight = 4, kMostFibers = 2048, kMostInCluster = 8;
Block g_in_flight[kMostInCluster];

// What the threads of the grid run.
void (*g_body)(void*) = nullptr;
void* g_argument = nullptr;
Overlap g_overlap = Overlap::kNone;
bool g_spares = false;  // the next kernel may begin beside the last one launched

Thread& current() { return g_block->threads[g_block->current]; }

[[noreturn]] void leave() {
  g_in_kernel = false;
  switch_fiber(fiber_of(g_block->current), g_host, true);
  __builtin_unreachable();
}

void thread_main() {
  arrived();
  g_body(g_argument);
  if (g_overlap != Overlap::kNone && !current().after_previous) {
    fail(
        "ends without after_previous_kernel(): what comes next would not come after what came "
        "before");
  }
  if (!current().after_all) g_spares = false;
  leave_cluster(current());
  current().status = Status::kDone;
  g_block->warps[g_block->current / 32].running &= ~(1u << g_block->current % 32);
  ++g_block->done;
  leave();
}

unsigned take_ready() {
  std::vector<unsigned>& ready = g_block->ready;
  if (g_order == Order::kAnyThread) std::swap(ready[g_random.below(ready.size())], ready.back());
  const unsigned next = ready.back();
  ready.pop_back();
  return next;
}

void resume(unsigned number) {
  Thread& thread = g_block->threads[number];
  if (!thread.started) {
    thread.started = true;
    g_fibers.prepare(g_block->slot * g_block->count + number, thread_main);
  }
  g_block->current = number;
  threadIdx = thread.index;
  g_in_kernel = true;
  switch_fiber(g_host, fiber_of(number));
}

// Static shared memory is there once: it is copied when another block goes on.
void go_on_with(Block& block) {
  if (g_block != &block) {
    std::vector<unsigned char>& parked = g_block->parked;
    parked.clear();
    for (const SharedVariable& v : static_shared()) {
      parked.insert(parked.end(), v.address, v.address + v.bytes);
    }
    checker_exchange_static(g_block->slot);
    g_block = &block;
    const unsigned char* from = block.parked.data();
    for (const SharedVariable& v : static_shared()) {
      if (block.parked.empty()) break;  // it has not run yet
      std::memcpy(v.address, from, v.bytes);
      from += v.bytes;
    }
    checker_exchange_static(block.slot);
  }
  blockIdx = block.index;
}

void begin_block(Block& slot, uint3 index, uint32_t log, std::size_t shared_bytes) {
  slot.parked.clear();
  slot.index = index;
  slot.log = log;
  slot.count = static_cast<std::size_t>(blockDim.x) * blockDim.y * blockDim.z;
  slot.done = slot.at_barrier = 0;
  slot.needed = 0;
  slot.interval = slot.first_interval = ++g_interval;
  slot.dynamic = std::make_unique<GuardedBuffer>(shared_bytes, "the dynamic shared memory", true);
  if (slot.threads.size() < slot.count) slot.threads.resize(slot.count);
  go_on_with(slot);
  std::vector<unsigned> all(slot.count);
  slot.warps.assign((slot.count + 31) / 32, Warp{});
  for (unsigned i = 0; i < slot.count; ++i) {
    all[i] = i;
    slot.warps[i / 32].running |= 1u << i % 32;
    Thread& thread = slot.threads[i];
    thread.status = Status::kReady;
    thread.started = thread.after_previous = thread.after_all = thread.past_l1 = false;
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thread.warp_clock = thread.arrived = thread.left = thread.left_whole = 0;
    thread.copies.clear();
    thread.copy_groups = 0;
  }
  slot.ready.clear();
  make_ready(slot, all);
  poison_static_shared(poison());
  checker_begin_block();
}

bool is_shared(const volatile void* address) {
  const auto* at = static_cast<const volatile unsigned char*>(address);
  const auto* dynamic = static_cast<const unsigned char*>(g_block->dynamic->data());
  if (at >= dynamic && at < dynamic + g_block->dynamic->size()) return true;
  const auto& all = static_shared();
  return std::any_of(all.begin(), all.end(), [&](const SharedVariable& v) {
    return at >= v.address && at < v.address + v.bytes;
  });
}

// Runs threads of the block until it has finished, all of them wait or another one shall go on: often where a thread meets
// those of other blocks, else seldom where there is much shared memory to copy.
void run_block(bool alone, std::size_t seldom) {
  while (!g_block->ready.empty()) {
    resume(take_ready());
    if (g_failed) {
      g_failed = false;
      throw Error(g_failure);
    }
    if (g_block->ended()) return;
    const bool now = std::exchange(g_switch, false) || g_random.below(seldom) == 0;
    if (now && !alone) return;
  }
}

// The numbers of the clusters to run, in the order in which they start.
std::vector<uint64_t> cluster_order(dim3 grid) {
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z / g_cluster_size;
  const uint64_t last = (g_last_blocks + g_cluster_size - 1) / g_cluster_size;
  const uint64_t count = last > 0 ? std::min(last, blocks) : blocks;
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), blocks - count);
  if (g_order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (g_seed > 1) g_random.shuffle(order.begin(), order.end());
  return order;
}

// Begins the blocks of a cluster in slots of its own.
void begin_cluster(Cluster& cluster, uint64_t number, uint32_t log, dim3 grid,
                   std::size_t shared_bytes) {
  cluster.barriers = 0;
  cluster.arrived = 0;
  for (unsigned rank = 0; rank < g_cluster_size; ++rank) {
    Block& block = *cluster.blocks[rank];
    const uint64_t i = number * g_cluster_size + rank;
    block.cluster = &cluster;
    block.rank = rank;
    begin_block(block,
                {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                 static_cast<unsigned>(i / grid.x / grid.y)},
                log + rank, shared_bytes);
  }
}

// One of the blocks that can run: the first, the last or any.
Block& choose(const std::vector<Cluster*>& open) {
  std::vector<Block*> able;
  for (const Cluster* cluster : open) {
    std::copy_if(cluster->blocks.begin(), cluster->blocks.end(), std::back_inserter(able),
                 [](const Block* block) { return !block->ready.empty(); });
  }
  if (able.empty()) {
    go_on_with(*open[0]->blocks[0]);
    fail(explain_deadlock());
  }
  if (g_seed > 1) return *able[able.size() > 1 ? g_random.below(able.size()) : 0];
  return *(g_order == Order::kDescending ? able.back() : able.front());
}

void run_blocks(dim3 grid, std::size_t shared_bytes) {
  const std::vector<uint64_t> order = cluster_order(grid);
  const std::size_t threads = static_cast<std::size_t>(blockDim.x) * blockDim.y * blockDim.z;
  const std::size_t blocks = g_seed > 1 ? std::min(kMostInFlight, kMostFibers / threads) : 1;
  std::vector<Cluster> clusters(std::max<std::size_t>(1, blocks / g_cluster_size));
  std::size_t copied = 0;
  for (const SharedVariable& v : static_shared()) copied += v.bytes;
  std::vector<Cluster*> open, free;
  for (std::size_t i = clusters.size(); i-- > 0;) {
    for (std::size_t slot = i * g_cluster_size; slot < (i + 1) * g_cluster_size; ++slot) {
      g_in_flight[slot].slot = slot;
      clusters[i].blocks.push_back(&g_in_flight[slot]);
    }
    free.push_back(&clusters[i]);
  }
  for (std::size_t next = 0; next < order.size() || !open.empty();) {
    for (; next < order.size() && !free.empty(); ++next) {
      open.push_back(free.back());
      free.pop_back();
      begin_cluster(*open.back(), order[next], static_cast<uint32_t>(next * g_cluster_size), grid,
                    shared_bytes);
    }
    Block& chosen = choose(open);
    go_on_with(chosen);
    run_block(open.size() * g_cluster_size == 1, 16 + copied / 128);
    const auto ended = [](const Block* block) { return block->ended(); };
    if (!std::all_of(chosen.cluster->blocks.begin(), chosen.cluster->blocks.end(), ended)) continue;
    free.push_back(chosen.cluster);
    std::erase(open, chosen.cluster);
  }
}

bool launchable(dim3 grid, dim3 block) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  return threads > 0 && threads <= 1024 && block.z <= 64 && grid.x > 0 && grid.x <= 0x7fffffffu &&
         grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535;
}

}  // namespace

Block* g_block = &g_in_flight[0];

void set_seed(uint64_t seed) {
  g_seed = seed;
  g_random = Random(seed);
  g_order = seed == 0   ? Order::kAscending
            : seed == 1 ? Order::kDescending
            : seed % 2  ? Order::kWarpAtATime
                        : Order::kAnyThread;
}
uint64_t seed() { return g_seed; }
void after_previous_kernel() { current().after_previous = true; }
void after_all_before() { current().after_previous = current().after_all = true; }
void end_of_kernels() { g_spares = false; }
PastL1::PastL1() {
  if (g_in_kernel) current().past_l1 = true;
}
PastL1::~PastL1() {
  if (g_in_kernel) current().past_l1 = false;
}
bool reads_past_l1() { return current().past_l1; }
Overlap comes_early() { return current().after_previous ? Overlap::kNone : g_overlap; }
void set_last_blocks(uint64_t count) { g_last_blocks = count; }

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

void make_ready(Block& block, const std::vector<unsigned>& threads) {
  std::vector<unsigned>& ready = block.ready;
  const std::size_t before = ready.size();
  ready.insert(ready.end(), threads.begin(), threads.end());
  const auto begin = ready.begin() + static_cast<std::ptrdiff_t>(before);
  if (g_order == Order::kAscending) std::reverse(begin, ready.end());  // the back runs first
  if (g_order == Order::kWarpAtATime) {
    g_random.shuffle(begin, ready.end());
    std::vector<unsigned> rank(block.count / 32 + 1);
    std::iota(rank.begin(), rank.end(), 0);
    g_random.shuffle(rank.begin(), rank.end());
    std::stable_sort(begin, ready.end(),
                     [&](unsigned a, unsigned b) { return rank[a / 32] < rank[b / 32]; });
  }
}

void suspend() {
  const unsigned number = g_block->current;
  g_in_kernel = false;
  switch_fiber(fiber_of(number), g_host);
}

void maybe_yield(const volatile void* global) {
  const bool meets_blocks = global != nullptr && g_seed > 1 && !is_shared(global);
  if (!g_in_kernel || (g_order != Order::kAnyThread && !meets_blocks)) return;
  if (g_random.below(4) != 0) return;
  g_switch = meets_blocks;
  g_block->ready.push_back(g_block->current);
  suspend();
}

void begin_copy(AsyncCopy copy) {
  check_copy_begins(copy, __builtin_return_address(0));
  std::memset(copy.to, poison(), kCopyBytes);
  copy.group = current().copy_groups;
  std::vector<AsyncCopy>& copies = current().copies;
  copies.insert(copies.begin(), copy);
}
void end_copy_group() { ++current().copy_groups; }
bool next_copy(unsigned newest, AsyncCopy& copy) {
  std::vector<AsyncCopy>& copies = current().copies;
  if (copies.empty() || copies.back().group + newest >= current().copy_groups) return false;
  copy = copies.back();
  copies.pop_back();
  return true;
}

void* dynamic_shared_memory() {
  if (!g_in_kernel) fail("dynamic shared memory exists inside a kernel only");
  return g_block->dynamic->data();
}

// What a card says of clusters that it does not have.
cudaError_t clusters_of(const Launch& launch) {
  if (launch.cluster == 1) return cudaSuccess;
  if (!device().clusters()) return cudaErrorNotSupported;
  const bool fits =
      launch.cluster > 0 && launch.cluster <= kMostInCluster && launch.grid.x % launch.cluster == 0;
  return fits ? cudaSuccess : cudaErrorInvalidClusterSize;
}

cudaError_t run_grid(const void* kernel, const Launch& launch, void (*body)(void*),
                     void* argument) {
  if (g_in_kernel) fail("a kernel launches a kernel");
  const std::size_t shared_bytes = launch.shared_bytes;
  if (!launchable(launch.grid, launch.block)) return cudaErrorInvalidConfiguration;
  if (!may_have_shared(kernel, shared_bytes)) return cudaErrorInvalidValue;
  if (const cudaError_t error = clusters_of(launch); error != cudaSuccess) return error;
  g_host_frame = __builtin_frame_address(0);
  gridDim = launch.grid;
  blockDim = launch.block;
  g_cluster_size = launch.cluster;
  g_body = body;
  g_argument = argument;
  g_overlap = launch.overlap;
  if (g_overlap == Overlap::kBeside && !g_spares) {
    fail("a kernel begins beside one that has not ended with after_all_before()");
  }
  g_spares = g_overlap != Overlap::kNone;  // what is launched after the end lets nobody in before
  const KeepFew few;
  checker_begin_launch();
  run_blocks(launch.grid, shared_bytes);
  const std::size_t used = checker_static_bytes();
  if (used > kUnaskedShared || used + shared_bytes > device().shared_per_block) {
    fail("a kernel has " + std::to_string(used) + " bytes of static and " +
         std::to_string(shared_bytes) + " of dynamic shared memory; a block of sm_" +
         std::to_string(device().architecture) + " may have " +
         std::to_string(device().shared_per_block));
  }
  check_buffers();
  return cudaSuccess;
}

}  // namespace emulator
