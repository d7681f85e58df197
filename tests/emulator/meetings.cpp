// Where threads wait for each other: warp collectives and block barriers, and the reports when they miss.
#include <algorithm>
#include <cstring>
#include <map>

#include "scheduler.h"

namespace emulator {
namespace {

std::string text(Site site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string hex(unsigned mask) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "0x%08x", mask);
  return buffer;
}

// Lanes named by mask that cannot come: never launched, or finished.
void check_lanes_exist(unsigned first, unsigned mask, Meeting meeting, Site site) {
  for (unsigned i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const bool launched = first + i < g_block->count;
    if (launched && g_block->threads[first + i].status != Status::kDone) continue;
    fail(std::string(name(meeting)) + " with mask " + hex(mask) + " names lane " +
             std::to_string(i) + ", which " + (launched ? "has finished" : "does not exist"),
         site);
  }
}

// Lanes already waiting with a mask that overlaps this one but is not the same, or for something else.
void check_agreement(unsigned first, const Thread& self) {
  for (unsigned i = 0; i < 32 && first + i < g_block->count; ++i) {
    const Thread& other = g_block->threads[first + i];
    if (other.status != Status::kAtWarp || !(self.mask >> i & 1)) continue;
    if (other.mask == self.mask && other.meeting == self.meeting) continue;
    fail(std::string(name(self.meeting)) + " with mask " + hex(self.mask) + " meets lane " +
             std::to_string(i) + " in " + name(other.meeting) + " with mask " + hex(other.mask) +
             " (" + text(other.site) + ")",
         self.site);
  }
}

}  // namespace

const char* name(Meeting meeting) {
  switch (meeting) {
    case Meeting::kSync:
      return "__syncwarp";
    case Meeting::kShuffle:
      return "a shuffle";
    case Meeting::kVote:
      return "a warp vote";
    case Meeting::kMatch:
      return "a warp match";
    case Meeting::kReduce:
      return "a warp reduction";
    case Meeting::kBarrier:
      return "__syncthreads";
    case Meeting::kCount:
      return "__syncthreads_count";
    case Meeting::kAnd:
      return "__syncthreads_and";
    case Meeting::kOr:
      return "__syncthreads_or";
    case Meeting::kCluster:
      return "a cluster barrier";
  }
  return "?";
}

unsigned lane() { return g_block->current % 32; }

const uint64_t* meet_warp(Meeting meeting, unsigned mask, uint64_t value, Site site) {
  const unsigned number = g_block->current, first = number - number % 32;
  Thread& self = g_block->threads[number];
  if (!(mask >> (number % 32) & 1)) {
    fail(std::string(name(meeting)) + " with mask " + hex(mask) + " is called by lane " +
             std::to_string(number % 32) + ", which the mask does not name",
         site);
  }
  Warp& warp = g_block->warps[number / 32];
  if ((mask & ~warp.running) != 0) check_lanes_exist(first, mask, meeting, site);
  self.meeting = meeting;
  self.mask = mask;
  self.value = value;
  self.site = site;
  if (warp.waiting == 0) {
    warp.alike = true;
    warp.mask = mask;
    warp.meeting = meeting;
  } else if (!warp.alike || warp.mask != mask || warp.meeting != meeting) {
    warp.alike = false;
    check_agreement(first, self);
  }
  self.status = Status::kAtWarp;
  warp.waiting |= 1u << number % 32;
  if ((mask & ~warp.waiting) != 0) {
    suspend();
    return self.gathered;
  }
  warp.waiting &= ~mask;

  uint32_t clock = 0;
  uint64_t values[32] = {};
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int i = __builtin_ctz(rest);
    const Thread& other = g_block->threads[first + static_cast<unsigned>(i)];
    clock = std::max(clock, other.warp_clock + 1);
    values[i] = other.value;
  }
  std::vector<unsigned> met;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const unsigned i = first + static_cast<unsigned>(__builtin_ctz(rest));
    Thread& other = g_block->threads[i];
    std::memcpy(other.gathered, values, sizeof(values));
    other.status = Status::kReady;
    if (meeting == Meeting::kSync) other.warp_clock = clock;  // a shuffle orders no memory
    met.push_back(i);
  }
  make_ready(*g_block, met);
  suspend();
  return self.gathered;
}

int meet_block(Meeting meeting, int predicate, Site site) {
  Thread& self = g_block->threads[g_block->current];
  self.meeting = meeting;
  self.predicate = predicate;
  self.site = site;
  self.status = Status::kAtBlock;
  if (++g_block->at_barrier == g_block->count) {
    std::vector<unsigned> all(g_block->count);
    int count = 0;
    for (unsigned i = 0; i < g_block->count; ++i) {
      all[i] = i;
      const Thread& other = g_block->threads[i];
      count += other.predicate != 0;
      if (other.meeting != meeting || other.site.line != site.line ||
          std::strcmp(other.site.file, site.file) != 0) {
        fail(std::string("threads of one block are at different barriers: ") + name(meeting) +
                 " and, thread " + describe(other.index) + ", " + name(other.meeting) + " (" +
                 text(other.site) + ")",
             site);
      }
    }
    for (Thread* t = g_block->threads.data(); t != g_block->threads.data() + g_block->count; ++t) {
      t->count = count;
      t->status = Status::kReady;
    }
    g_block->at_barrier = 0;
    g_block->interval = ++g_interval;
    make_ready(*g_block, all);
  }
  suspend();
  return self.count;
}

std::string explain_deadlock() {
  // Group the waiting threads by what they wait for.
  std::map<std::string, std::size_t> waiting;
  std::size_t done = 0, count = 0;
  for (const Block* block : g_block->cluster->blocks) {
    done += block->done;
    count += block->count;
    for (std::size_t i = 0; i < block->count; ++i) {
      const Thread& thread = block->threads[i];
      if (thread.status == Status::kDone) continue;
      std::string what = std::string(name(thread.meeting)) + " (" + text(thread.site) + ")";
      if (thread.status == Status::kAtWarp) what += " with mask " + hex(thread.mask);
      ++waiting[what];
    }
  }
  std::string message = g_cluster_size > 1 ? "the cluster of block " : "block ";
  message += describe(blockIdx) + " is stuck: ";
  for (const auto& [what, threads] : waiting) {
    message += std::to_string(threads) + " threads wait at " + what + ", ";
  }
  return message + std::to_string(done) + " of " + std::to_string(count) + " have finished";
}

}  // namespace emulator
