// The access checker. Two accesses race when they touch the same bytes, one is a write, not both are atomic, and
// neither a barrier, nor a __syncwarp both threads took part in, nor the end of a launch lies between them. Across
// blocks they are ordered by  access, __threadfence, atomic  in the first and  atomic, __threadfence, access  in the
// second, where both atomics are on one address; in each block a barrier may hand on from thread to thread. A barrier of
// their cluster orders them too.
#include "access.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace emulator {
namespace {

constexpr std::size_t kHostStack = 8u << 20;
// Where the launch's own frames lie, with the kernel's arguments.
constexpr std::size_t kHostFrames = 8u << 10;

// In order of address. Never destroyed: buffers may outlive other objects at exit.
auto& g_regions = *new std::vector<std::unique_ptr<Region>>;
auto& g_static = *new std::vector<std::unique_ptr<Region>>;
Region* g_recent[4] = {};

// What each block of this launch did that can order it with others.
struct Event : Moment {
  const void* address = nullptr;  // of an atomic
};
struct BlockLog {
  std::vector<Event> fences, atomics;
};
std::vector<BlockLog> g_log;
uint64_t g_launch = 0;
uint64_t g_launch_first = 0, g_before_first = 0;  // intervals: of this launch, of the one before
uint32_t g_tick = 0;

#if defined(EMULATOR_CHECKED)
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

std::string text(const Region& region, std::ptrdiff_t offset) {
  return "byte " + std::to_string(offset) + " of " + region.name + " (" +
         std::to_string(region.bytes) + " bytes)";
}
bool is_read(Kind kind) { return kind == Kind::kRead || kind == Kind::kRelaxedRead; }
const char* verb(Kind kind) {
  return kind == Kind::kAtomic ? "updates" : is_read(kind) ? "reads" : "writes";
}

Region* find(std::vector<std::unique_ptr<Region>>& regions, const unsigned char* address) {
  auto after = std::upper_bound(regions.begin(), regions.end(), address,
                                [](const unsigned char* a, const auto& r) { return a < r->begin; });
  return after == regions.begin() ? nullptr : (--after)->get();
}

// From the launch's frame up to so many bytes of the host's stack.
bool on_host_stack(const unsigned char* address, std::size_t bytes) {
  const auto* host = static_cast<const unsigned char*>(g_host_frame);
  return address >= host && address < host + bytes;
}

// What a meeting gave to the threads of the block.
bool is_gathered(const unsigned char* address) {
  const auto* at = reinterpret_cast<const Thread*>(address);
  return at >= g_block->threads.data() && at < g_block->threads.data() + g_block->count;
}

// Memory that belongs to threads, or is constant: stacks, the kernel's arguments, the module's tables.
bool is_private(const unsigned char* address, Kind kind) {
  if (g_fibers.owns(address)) return true;
  return is_read(kind) &&
         (is_gathered(address) || on_host_stack(address, kHostStack) || in_module(address));
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
  const Fiber& fiber = fiber_of(g_block->current);
  if (address >= fiber.stack && address < fiber.stack + fiber.stack_bytes) return nullptr;
  if (is_read(kind) && (on_host_stack(address, kHostFrames) || is_gathered(address))) {
    return nullptr;
  }
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

Moment now() {
  const Thread& self = g_block->threads[g_block->current];
  return {g_block->interval, self.warp_clock, g_tick,
          g_block->log,      self.arrived,    static_cast<uint16_t>(g_block->current)};
}

// An event of the running thread, after all that it did before.
Event next_event(const void* address = nullptr) {
  ++g_tick;
  return {now(), address};
}

// Whether a fence lies between two moments of one block.
bool fenced(const Moment& first, const Moment& last, const BlockLog& log) {
  return std::any_of(log.fences.begin(), log.fences.end(),
                     [&](const Event& fence) { return first.before(fence) && fence.before(last); });
}

// Whether the running thread comes after an access of another block.
bool ordered_across_blocks(const Access& earlier) {
  const BlockLog &theirs = g_log[earlier.block], &ours = g_log[g_block->log];
  if (theirs.fences.empty() || ours.fences.empty()) return false;
  Moment here = now();
  ++here.tick;  // after the events of this thread
  for (const Event& release : theirs.atomics) {
    const auto acquires = [&](const Event& acquire) {
      return acquire.address == release.address && release.tick < acquire.tick &&
             fenced(acquire, here, ours);
    };
    if (std::any_of(ours.atomics.begin(), ours.atomics.end(), acquires) &&
        fenced(earlier, release, theirs)) {
      return true;
    }
  }
  return false;
}

// Most launches have no clusters: a division for every access would take a third of the checker's time.
bool in_this_cluster(const Moment& moment) {
  return moment.block == g_block->log ||
         (g_cluster_size > 1 && moment.block / g_cluster_size == g_block->log / g_cluster_size);
}

bool is_of_other_block(const Region& region) {
  return region.space == Space::kDynamicShared && region.begin != g_block->dynamic->data();
}

// Whether the running thread may not touch what `earlier` touched.
bool races(const Access& earlier, Space space) {
  if (earlier.interval < g_launch_first) return false;
  const bool other = earlier.block != g_block->log, near = in_this_cluster(earlier);
  const Thread& self = g_block->threads[g_block->current];
  const bool whole = earlier.far || space == Space::kGlobal;
  if (near && earlier.arrived < (whole ? self.left_whole : self.left)) return false;
  if (other && space == Space::kGlobal) return !ordered_across_blocks(earlier);
  if (other) return near;
  if (earlier.many_blocks) return true;
  if (earlier.interval != g_block->interval) return false;
  if (earlier.many_warps || earlier.thread / 32 != g_block->current / 32) return true;
  if (earlier.thread == g_block->current && !earlier.several) return false;
  return earlier.warp_clock >= g_block->threads[g_block->current].warp_clock;
}

[[noreturn]] void report_race(const Region& region, std::ptrdiff_t offset, Kind kind,
                              const Access& earlier, bool earlier_wrote, const void* code) {
  const bool other_block = earlier.block != g_block->log;
  fail(std::string("a race: ") + verb(kind) + " " + text(region, offset) + ", which thread " +
       std::to_string(earlier.thread) + (other_block ? " of another block " : " ") +
       (earlier_wrote ? "has written" : "has read") + " with nothing between (" +
       source_line(code) + ")");
}

// Adds an access to those that it does not race with.
void note(Access& last, bool atomic, Space space, bool far) {
  const Moment self = now();
  if (last.interval != self.interval) {
    const bool apart = last.block != self.block || last.many_blocks;
    const bool beside = apart && space == Space::kDynamicShared && races(last, space);
    const Access before = last;
    last = {self, atomic, false, false, beside, far};
    if (!beside) return;
    last.far |= before.far;
    last.arrived = std::max(last.arrived, before.arrived);
    last.atomic = atomic && before.atomic;
    return;
  }
  last.atomic = last.atomic && atomic;
  last.far |= far;
  last.several |= last.thread != self.thread;
  last.many_warps |= last.thread / 32 != self.thread / 32;
  last.thread = self.thread;
  last.tick = self.tick;
  last.arrived = std::max(last.arrived, self.arrived);
  last.warp_clock = std::max(last.warp_clock, self.warp_clock);
}

// Whether it belongs to the launch before, which may still go on.
bool is_of_launch_before(const Access& earlier) {
  return earlier.interval >= g_before_first && earlier.interval < g_launch_first;
}

// kWaits: no access at all may come before the wait. kBeside: none to what the kernel before has written, no write to what it
// has read, and of what others have written no read but from L2.
[[noreturn]] void report_early(const Region& region, std::ptrdiff_t offset, Kind kind,
                               const char* why, const void* code) {
  fail(std::string(verb(kind)) + " " + text(region, offset) + why +
       " before after_previous_kernel() (" + source_line(code) + ")");
}
void check_early(const Region& region, const Cell& cell, std::ptrdiff_t offset, Kind kind,
                 const void* code) {
  const bool reads = is_read(kind);
  const char* why = nullptr;
  if (kind == Kind::kRead && !reads_past_l1()) why = " by L1, which may be older,";
  if (cell.write.interval >= g_launch_first) why = nullptr;  // its own
  if (!reads && is_of_launch_before(cell.read)) why = ", which the kernel before reads,";
  if (is_of_launch_before(cell.write)) why = ", which the kernel before writes,";
  if (why) report_early(region, offset, kind, why, code);
}

void check_cell(Region& region, Cell& cell, std::ptrdiff_t offset, Kind kind, const void* code) {
  const bool far = is_of_other_block(region);
  const bool atomic =
      kind == Kind::kAtomic || kind == Kind::kRelaxedRead || kind == Kind::kRelaxedWrite;
  const bool reads = is_read(kind) || kind == Kind::kAtomic, writes = !is_read(kind);
  if (reads && !region.initialized) {
    // Dynamic shared memory is new for each block; of static memory another block may have written.
    const uint64_t since = region.space == Space::kStaticShared ? g_block->first_interval : 1;
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
    if (kind == Kind::kCopyBegins) {
      cell.write = Access{};
    } else if (atomic && cell.write.atomic) {
      note(cell.write, true, region.space, far);
    } else {
      cell.write = Access{now(), atomic, false, false, false, far};
    }
  } else if (comes_early() == Overlap::kNone || !is_of_launch_before(cell.read)) {
    note(cell.read, atomic, region.space, false);  // else the one that may still come is remembered
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
  const Overlap early = region.space == Space::kGlobal ? comes_early() : Overlap::kNone;
  if (early == Overlap::kWaits) report_early(region, address - region.begin, kind, "", code);
  if (is_of_other_block(region)) {
    const std::string wrong = reach_other_block(region.begin);
    if (!wrong.empty()) {
      fail(std::string(verb(kind)) + " " + text(region, address - region.begin) + wrong + " (" +
           source_line(code) + ")");
    }
  }
  region.last_launch = g_launch;
  const std::size_t offset = static_cast<std::size_t>(address - region.begin);
  const auto [first, last] = region.cells(offset, bytes);
  for (Cell* cell = first; cell != last; ++cell) {
    if (early == Overlap::kBeside) {
      check_early(region, *cell, static_cast<std::ptrdiff_t>(offset), kind, code);
    }
    check_cell(region, *cell, static_cast<std::ptrdiff_t>(offset), kind, code);
  }
  if (kind == Kind::kAtomic && region.space == Space::kGlobal) {
    g_log[g_block->log].atomics.push_back(next_event(address));
  }
}

void before_atomic(const volatile void* address, std::size_t bytes, Site) {
  if (!g_in_kernel) fail("an atomic outside a kernel");
  const void* code = __builtin_return_address(0);
  maybe_yield(address);  // before it is noted: notes are in the order of the updates
  if (!kChecked) return;
  check_alignment(address, bytes, code);
  check_access(address, bytes, Kind::kAtomic, code);
}

void before_relaxed(const volatile void* address, std::size_t bytes, bool writes) {
  const void* code = __builtin_return_address(0);
  maybe_yield(address);
  if (!kChecked) return;
  check_alignment(address, bytes, code);
  check_access(address, bytes, writes ? Kind::kRelaxedWrite : Kind::kRelaxedRead, code);
}

void check_copy_begins(const AsyncCopy& copy, const void* code) {
  check_alignment(copy.to, kCopyBytes, code);
  const PastL1 reads;                                      // 16 bytes go past it
  check_access(copy.from, kCopyBytes, Kind::kRead, code);  // by now, not when it is waited for
  check_access(copy.to, kCopyBytes, Kind::kCopyBegins, code);
}

void report_misaligned(std::size_t bytes, const void* code) {
  fail("an access of " + std::to_string(bytes) + " bytes is not aligned (" + source_line(code) +
       ")");
}

void on_fence() {
  if (kChecked && g_in_kernel) g_log[g_block->log].fences.push_back(next_event());
  maybe_yield();
}

void checker_begin_launch() {
  g_log.clear();
  g_tick = 0;
  ++g_launch;
  g_before_first = g_launch_first;
  g_launch_first = g_interval + 1;
  if (!kChecked || !g_static.empty()) return;
  for (const SharedVariable& v : static_shared()) {
    g_static.push_back(std::make_unique<Region>(v.address, v.bytes, v.name, Space::kStaticShared));
  }
  std::sort(g_static.begin(), g_static.end(), [](auto& a, auto& b) { return a->begin < b->begin; });
}
void checker_begin_block() { g_log.emplace_back(); }

std::size_t checker_static_bytes() {
  std::size_t bytes = 0;
  for (const auto& region : g_static) {
    if (region->last_launch == g_launch) bytes += region->bytes;
  }
  return bytes;
}

void checker_exchange_static(std::size_t slot) {
  static auto& parked = *new std::vector<std::vector<Region::Marks>>;
  if (parked.size() <= slot) parked.resize(slot + 1);
  std::vector<Region::Marks>& marks = parked[slot];
  for (std::size_t i = 0; i < g_static.size(); ++i) {
    if (marks.size() <= i) marks.emplace_back(g_static[i]->bytes);
    g_static[i]->exchange(marks[i]);
  }
}

Cells::Cells(std::size_t count) : count_(count) {
  void* pages = mmap(nullptr, count * sizeof(Cell), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  first_ = static_cast<Cell*>(pages);
}
Cells::~Cells() {
  if (first_) munmap(first_, count_ * sizeof(Cell));
}

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
