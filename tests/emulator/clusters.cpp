// Clusters: their barrier, and what one block may do with the shared memory of another.
#include <algorithm>
#include <cstring>

#include "scheduler.h"

namespace emulator {
namespace {

Thread& current() { return g_block->threads[g_block->current]; }

void open_barrier(Cluster& cluster) {
  ++cluster.barriers;
  cluster.arrived = 0;
  for (Block* block : cluster.blocks) {
    std::vector<unsigned> waiting;
    for (unsigned i = 0; i < block->count; ++i) {
      Thread& thread = block->threads[i];
      if (thread.status != Status::kAtCluster) continue;
      thread.status = Status::kReady;
      waiting.push_back(i);
    }
    make_ready(*block, waiting);
  }
}

}  // namespace

unsigned g_cluster_size = 1;

unsigned cluster_size() { return g_cluster_size; }
unsigned cluster_rank() { return g_block->rank; }

void arrive_at_cluster(bool own, Site site) {
  Thread& self = current();
  Cluster& cluster = *g_block->cluster;
  if (self.arrived != self.left) fail("arrives at a cluster barrier twice without a wait", site);
  if (cluster.arrived == 0) cluster.site = site;
  if (cluster.site.line != site.line || std::strcmp(cluster.site.file, site.file) != 0) {
    fail("threads of one cluster are at different barriers: another is at line " +
             std::to_string(cluster.site.line),
         site);
  }
  ++self.arrived;
  self.arrived_own = own;
  if (++cluster.arrived == cluster.blocks.size() * g_block->count) open_barrier(cluster);
  maybe_yield();
}

void wait_for_cluster(Site site) {
  Thread& self = current();
  if (self.arrived == self.left) {
    fail("waits for a cluster barrier at which it has not arrived", site);
  }
  if (g_block->cluster->barriers < self.arrived) {
    self.meeting = Meeting::kCluster;
    self.site = site;
    self.status = Status::kAtCluster;
    suspend();
  }
  self.left = self.arrived;
  if (!self.arrived_own) self.left_whole = self.left;
}

void* map_shared(const void* shared, unsigned rank, Site site) {
  if (rank >= g_cluster_size) {
    fail("block " + std::to_string(rank) + " of a cluster of " + std::to_string(g_cluster_size),
         site);
  }
  const auto* at = static_cast<const unsigned char*>(shared);
  const auto* own = static_cast<const unsigned char*>(g_block->dynamic->data());
  if (at < own || at >= own + g_block->dynamic->size()) {
    fail("only a pointer into the block's own dynamic shared memory has a place in another block",
         site);
  }
  const Block& block = *g_block->cluster->blocks[rank];
  return static_cast<unsigned char*>(block.dynamic->data()) + (at - own);
}

std::string reach_other_block(const void* memory) {
  const std::vector<Block*>& blocks = g_block->cluster->blocks;
  const auto found = std::find_if(blocks.begin(), blocks.end(), [=](const Block* block) {
    return block->dynamic->data() == memory;
  });
  if (found == blocks.end()) return " of a block of another cluster";
  Block& other = **found;
  const Thread& self = current();
  const auto whose = [&] { return " of block " + describe(other.index); };
  if (self.left == 0) return whose() + " before a cluster barrier: it may not have begun";
  if (other.ended()) return whose() + ", which has ended";
  if (other.needed <= self.arrived) {
    other.needed = self.arrived + 1;
    other.needed_by = "block " + describe(blockIdx) + ", thread " + describe(self.index);
  }
  return "";
}

void leave_cluster(const Thread& thread) {
  if (thread.arrived != thread.left) {
    fail("ends where it has arrived at a cluster barrier and not waited");
  }
  if (g_block->done + 1 < g_block->count) return;
  uint32_t left = 0;
  for (std::size_t i = 0; i < g_block->count; ++i) {
    left = std::max(left, g_block->threads[i].left);
  }
  if (left < g_block->needed) {
    fail("the block ends while others may use its shared memory, with no cluster barrier behind " +
         g_block->needed_by);
  }
}

}  // namespace emulator
