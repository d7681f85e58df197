// The access checker. Two accesses race when they touch the same bytes, one is a write, not both are atomic, and
// neither a barrier, nor a __syncwarp both threads took part in, nor the end of a launch lies between them; across
// blocks, a __threadfence after the first and an atomic before the second order them too (the last-block pattern).
#include "access.h"

#include <algorithm>

namespace emulator {
namespace {

constexpr std::size_t kHostStack = 8u << 20;

// In order of address. Never destroyed: buffers may outlive other objects at exit.
auto& g_regions = *new std::vector<std::unique_ptr<Region>>;
auto& g_static = *new std::vector<std::unique_ptr<Region>>;
Region* g_recent[4] = {};

// What the blocks of this launch did, for ordering across blocks.
struct BlockLog {
  uint64_t first_interval, last_fence;
  bool atomic;
};
std::vector<BlockLog> g_log;
uint64_t g_launch_first = 0;

#if defined(EMULATOR_CHECKED)
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

std::string text(const Region& region, std::ptrdiff_t offset) {
  return "byte " + std::to_string(offset) + " of " + region.name + " (" +
         std::to_string(region.bytes) + " bytes)";
}
const char* verb(Kind kind) {
  return kind == Kind::kAtomic                                ? "updates"
         : kind == Kind::kRead || kind == Kind::kVolatileRead ? "reads"
                                                              : "writes";
}

Region* find(std::vector<std::unique_ptr<Region>>& regions, const unsigned char* address) {
  auto after = std::upper_bound(regions.begin(), regions.end(), address,
                                [](const unsigned char* a, const auto& r) { return a < r->begin; });
  return after == regions.begin() ? nullptr : (--after)->get();
}

// Memory that belongs to threads, or is constant: stacks, the kernel's arguments, the module's tables.
bool is_private(const unsigned char* address, Kind kind) {
  if (g_fibers.owns(address)) return true;
  const bool read = kind == Kind::kRead || kind == Kind::kVolatileRead;
  const auto* host = static_cast<const unsigned char*>(g_host_frame);
  const auto* at = reinterpret_cast<const Thread*>(address);  // what a meeting gave
  if (at >= g_block.threads.data() && at < g_block.threads.data() + g_block.count) return read;
  return read && ((address >= host && address < host + kHostStack) || in_module(address));
}

[[noreturn]] void report_out_of_bounds(const unsigned char* address, std::size_t bytes, Kind kind,
                                       const void* code) {
  std::string message =
      std::string(verb(kind)) + " " + std::to_string(bytes) + " bytes out of bounds: ";
  const Region* near = nullptr;
  std::ptrdiff_t best = 4096;
  for (const auto* regions : {&g_regions, &g_static}) {
    for (const auto& candidate : *regions) {
      const unsigned char* end = candidate->begin + candidate->bytes;
      const std::ptrdiff_t distance =
          address < candidate->begin ? candidate->begin - address : address - end;
      if (distance < best) best = distance, near = candidate.get();
    }
  }
  message += near ? text(*near, address - near->begin) : "no buffer is near";
  fail(message + " (" + source_line(code) + ")");
}

// The region of an access, or null where nothing needs checking.
Region* locate(const unsigned char* address, std::size_t bytes, Kind kind, const void* code) {
  const Fiber& fiber = g_fibers[g_block.current];
  if (address >= fiber.stack && address < fiber.stack + fiber.stack_bytes) return nullptr;
  // Kernels alternate between a few arrays: remember the last ones.
  for (Region*& recent : g_recent) {
    if (!recent || !recent->covers(address, bytes)) continue;
    std::swap(recent, g_recent[0]);
    return g_recent[0];
  }
  for (auto* regions : {&g_regions, &g_static}) {
    Region* region = find(*regions, address);
    if (!region || !region->covers(address, bytes)) continue;
    std::move_backward(g_recent, std::end(g_recent) - 1, std::end(g_recent));
    return g_recent[0] = region;
  }
  if (is_private(address, kind)) return nullptr;
  report_out_of_bounds(address, bytes, kind, code);
}

bool ordered_across_blocks(const Access& earlier) {
  if (earlier.interval < g_launch_first) return true;
  auto after =
      std::upper_bound(g_log.begin(), g_log.end(), earlier.interval,
                       [](uint64_t i, const BlockLog& log) { return i < log.first_interval; });
  const BlockLog& log = *--after;
  return log.last_fence >= earlier.interval && g_log.back().atomic;
}

// Whether the running thread may not touch what `earlier` touched.
bool races(const Access& earlier, Space space) {
  if (earlier.interval == 0) return false;
  if (earlier.interval < g_log.back().first_interval) {
    return space == Space::kGlobal && !ordered_across_blocks(earlier);
  }
  if (earlier.interval != g_block.interval) return false;
  if (earlier.many_warps || earlier.thread / 32 != g_block.current / 32) return true;
  if (earlier.thread == g_block.current && !earlier.several) return false;
  return earlier.warp_clock >= g_block.threads[g_block.current].warp_clock;
}

[[noreturn]] void report_race(const Region& region, std::ptrdiff_t offset, Kind kind,
                              const Access& earlier, bool earlier_wrote, const void* code) {
  const bool other_block = earlier.interval < g_log.back().first_interval;
  fail(std::string("a race: ") + verb(kind) + " " + text(region, offset) + ", which thread " +
       std::to_string(earlier.thread) + (other_block ? " of another block " : " ") +
       (earlier_wrote ? "has written" : "has read") + " with nothing between (" +
       source_line(code) + ")");
}

void note_read(Access& read, bool atomic) {
  const Thread& self = g_block.threads[g_block.current];
  const auto thread = static_cast<uint16_t>(g_block.current);
  if (read.interval != g_block.interval) {
    read = {g_block.interval, self.warp_clock, thread, atomic, false, false};
    return;
  }
  read.atomic = read.atomic && atomic;
  read.several |= read.thread != thread;
  read.many_warps |= read.thread / 32 != thread / 32;
  read.thread = thread;
  read.warp_clock = std::max(read.warp_clock, self.warp_clock);
}

void check_cell(Region& region, Cell& cell, std::ptrdiff_t offset, Kind kind, const void* code) {
  // volatile makes a flag in global memory work; in shared memory it is how lock-step code used to be written.
  const bool is_volatile = kind == Kind::kVolatileRead || kind == Kind::kVolatileWrite;
  const bool atomic = kind == Kind::kAtomic || (is_volatile && region.space == Space::kGlobal);
  const bool reads = kind != Kind::kWrite && kind != Kind::kVolatileWrite;
  const bool writes = kind != Kind::kRead && kind != Kind::kVolatileRead;
  if (reads && !region.initialized) {
    const uint64_t since = region.space == Space::kGlobal ? 1 : g_log.back().first_interval;
    if (cell.write.interval < since) {
      fail("reads uninitialized memory: " + text(region, offset) + " (" + source_line(code) + ")");
    }
  }
  if (!(atomic && cell.write.atomic) && races(cell.write, region.space)) {
    report_race(region, offset, kind, cell.write, true, code);
  }
  if (writes) {
    if (!(atomic && cell.read.atomic) && races(cell.read, region.space)) {
      report_race(region, offset, kind, cell.read, false, code);
    }
    const Thread& self = g_block.threads[g_block.current];
    cell.write = {g_block.interval, self.warp_clock, static_cast<uint16_t>(g_block.current),
                  atomic,           false,           false};
  } else {
    note_read(cell.read, atomic);
  }
}

}  // namespace

void check_access(const volatile void* where, std::size_t bytes, Kind kind, const void* code) {
  if (!kChecked || !g_in_kernel || bytes == 0) return;
  const auto* address =
      const_cast<const unsigned char*>(static_cast<const volatile unsigned char*>(where));
  Region* const region_or_null = locate(address, bytes, kind, code);
  if (!region_or_null) return;
  Region& region = *region_or_null;
  const std::size_t offset = static_cast<std::size_t>(address - region.begin);
  const auto [first, last] = region.cells(offset, bytes);
  for (Cell* cell = first; cell != last; ++cell) {
    check_cell(region, *cell, static_cast<std::ptrdiff_t>(offset), kind, code);
  }
}

void before_atomic(const volatile void* address, std::size_t bytes, Site) {
  if (!g_in_kernel) fail("an atomic outside a kernel");
  const void* code = __builtin_return_address(0);
  if (kChecked) {
    check_alignment(address, bytes, code);
    check_access(address, bytes, Kind::kAtomic, code);
    g_log.back().atomic = true;
  }
  maybe_yield();
}

void check_alignment(const volatile void* address, std::size_t bytes, const void* code) {
  if (!g_in_kernel || reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  fail("an access of " + std::to_string(bytes) + " bytes is not aligned (" + source_line(code) +
       ")");
}

void on_fence() {
  if (kChecked && g_in_kernel) g_log.back().last_fence = g_block.interval;
  maybe_yield();
}

void checker_begin_launch() {
  g_log.clear();
  g_launch_first = g_block.interval + 1;
  if (!kChecked || !g_static.empty()) return;
  for (const SharedVariable& v : static_shared()) {
    g_static.push_back(std::make_unique<Region>(v.address, v.bytes, v.name, Space::kStaticShared));
  }
  std::sort(g_static.begin(), g_static.end(), [](auto& a, auto& b) { return a->begin < b->begin; });
}
void checker_begin_block() { g_log.push_back({g_block.interval, 0, false}); }

void checker_register(void* address, std::size_t bytes, const std::string& what, bool shared) {
  if (!kChecked) return;
  const Space space = shared ? Space::kDynamicShared : Space::kGlobal;
  auto region = std::make_unique<Region>(address, bytes, what, space);
  auto place = std::lower_bound(g_regions.begin(), g_regions.end(), region,
                                [](const auto& a, const auto& b) { return a->begin < b->begin; });
  g_regions.insert(place, std::move(region));
}
void checker_forget(void* address) {
  std::fill(std::begin(g_recent), std::end(g_recent), nullptr);
  std::erase_if(g_regions, [=](const auto& region) { return region->begin == address; });
}
void checker_mark_initialized(void* address, std::size_t bytes) {
  auto* first = static_cast<unsigned char*>(address);
  Region* region = kChecked && bytes > 0 ? find(g_regions, first) : nullptr;
  if (!region || !region->covers(first, bytes)) return;
  if (bytes == region->bytes) region->initialized = true;
  if (region->initialized) return;
  const auto [begin, end] = region->cells(static_cast<std::size_t>(first - region->begin), bytes);
  for (Cell* cell = begin; cell != end; ++cell) {
    if (cell->write.interval == 0) cell->write.interval = 1;  // before any block
  }
}

}  // namespace emulator
