// Matching in one kernel: a cluster of 4 or 8 blocks an image (fewer where there are few priors), from sm_90 on.
//
// Block r of n has every n-th group of 32 priors, from the r-th on, so that large priors, which most truths overlap, are dealt
// out. All that the blocks find out stands in shared memory; what each of them knows of a truth's best prior is put together
// through the cluster. Of 128 truths at a time:
//
//   bound    of each truth and group (prior_group.h), a thread a pair; the largest of a truth, and its nearest group of 0
//   list     pairs that may decide a code; of a truth that has none here, its pair of the largest bound, which nearly always
//            overlaps more than the other bounds
//   look     a warp a pair of the list: the prior's best truth, the truth's best prior, both maxima of TopKey
//   join     cluster barrier; the best prior of a truth so far, of all blocks
//   list, look, join    the pairs that could still be better
//   claim    each block, for its own priors: the last truth that claims a prior, and the last that renames it. They stand
//            beside the codes, which a later chunk may still decide
//
// and then each code is written once. Maxima have no order: the result is that of the three kernels, bit for bit.
//
// Reads 16 B a prior twice, 16 B a truth and block; writes 4 B a prior. Shared memory: 6 KB, 41 B a prior of the block.
//
// Takes 5.7 us of one image, 8.9 of 32 with 7 truths, 33 with 100 on an H200, where with 40 registers three blocks fit a
// multiprocessor and all 32 clusters run at once; with 60, two blocks and 30 clusters, it was 11.7 (of 4 blocks 10.5) and 38.
// By count, from the machine's code of sm_90, in a warp's chain of 7 truths (B = 32, P = 8732, 8 blocks of 512 threads): 107
// to the loads of priors and offsets, which go side by side, 31 to that of truths, 200 for groups beside it; 85 a bound, 90
// a list, 130 a pair (two of the first look, one of the second); a cluster barrier, 8 loads from other blocks side by side
// and 75 around them, twice; a second list of 50, 50 to claim, 90 to write. At 10 cycles an instruction, 600 a load, 400 a
// cluster barrier and 250 a load from another block: 14,800 cycles, with a start 9.0 us on an H100. Of 100 truths a thread
// has 9 bounds, and a warp looks at 13 and 3 pairs: 45,300 cycles, 24.4 us. A third of the samples there wait at barriers.
//
// Bounds: no bipartite matching and no double, whose keys are wider than an atomic operation; priors of a block as
// shared memory allows. Any number of truths.
#pragma once

#include "cluster_table.cuh"
#include "common/cuda/cluster.cuh"

namespace ssd_cuda {

// One struct, apart from MatchArgs: a longer MatchArgs costs match_kernel three registers, two parameters cost this kernel ten.
template <typename T>
struct ClusterArgs : MatchArgs<T> {
  MatchPlan plan;
};

// One block of the cluster of an image.
template <typename T, bool kKeeps>
class ClusterMatch {
 public:
  __device__ __forceinline__ ClusterMatch(const ClusterArgs<T>& args, unsigned char* memory)
      : args_(args),
        chunk_(*reinterpret_cast<ChunkTable<T>*>(memory)),
        table_(memory + sizeof(ChunkTable<T>), args.plan.slots),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x)),
        image_(blockIdx.x >> args.plan.block_bits),
        rank_(static_cast<int>(blockIdx.x & (args.plan.blocks - 1))),
        num_priors_(static_cast<int>(args.num_priors)),
        priors_(args.image_priors(image_)),
        least_(args.rule.least_overlap()) {
    const int groups = static_cast<int>(num_groups(num_priors_)) - rank_;
    slots_ = (groups + (1 << args.plan.block_bits) - 1) >> args.plan.block_bits;
  }

  // Touches no global memory.
  __device__ __forceinline__ void clear() {
    for (int i = thread_; i < slots_ * kGroupPriors; i += threads_) {
      table_.bests[i] = 0;
      table_.claims[i] = table_.renames[i] = kBackground;
    }
  }

  __device__ __forceinline__ void run() {
    load_group(thread_ / kTeam);  // on its way beside the offsets
    __syncwarp();                 // else ptxas puts the loads behind the wait for the offsets
    range_ = truth_range(args_.offsets, image_, args_.rows);
    take_truths(0);
    make_groups();
    for (int64_t base = 0; base < range_.count; base += kChunkTruths) {
      if (base > 0) {
        __syncthreads();  // no warp looks at the last chunk any more
        take_truths(base);
      }
      match_chunk();
    }
    if (kKeeps && range_.count > 0) cluster_arrive_own();  // no other block's key is read any more
    __syncthreads();
    write_codes();
    if (kKeeps && range_.count > 0) cluster_wait();
  }

 private:
  static constexpr int kTeam = 8;  // lanes of a group where it is made
  static constexpr int kEach = kGroupPriors / kTeam;

  __device__ __forceinline__ int first_prior(int slot) const {
    return ((slot << args_.plan.block_bits) + rank_) * kGroupPriors;
  }

  // The team's priors of a group as they stand in memory.
  __device__ __forceinline__ void load_group(int slot) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int p = first_prior(slot) + i * kTeam + thread_ % kTeam;
      if (slot < slots_ && p < num_priors_) held_[i] = priors_[p];
    }
  }
  __device__ __forceinline__ void make_groups() {
    const int teams = threads_ / kTeam;
    for (int base = 0; base < slots_; base += teams) {
      const int slot = base + thread_ / kTeam;
      if (base > 0) load_group(slot);
      PriorGroup<T> own = PriorGroup<T>::none();
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int p = first_prior(slot) + i * kTeam + thread_ % kTeam;
        if (slot >= slots_ || p >= num_priors_) continue;
        const Vec4<T> prior = args_.rule.corners(held_[i]);
        own.merge(PriorGroup<T>::of(prior, args_.rule.prior_area(prior)));
      }
      const PriorGroup<T> group = warp_group<kTeam>(own);
      if (slot < slots_ && thread_ % kTeam == 0) table_.groups[slot] = group;
    }
  }

  __device__ __forceinline__ void take_truths(int64_t base) {
    base_ = static_cast<int32_t>(base);
    const int64_t left = range_.count - base;
    count_ = static_cast<int>(left < kChunkTruths ? left : kChunkTruths);
    bits_ = count_ > 1 ? 32 - __clz(count_ - 1) : 0;
    if (thread_ < count_) chunk_.truths[thread_] = args_.truth(range_.begin + base + thread_);
    if (thread_ < kChunkTruths) chunk_.tops[thread_] = 0, chunk_.zeros[thread_] = 0;
    if (thread_ < 2) chunk_.listed[thread_] = 0;
  }

  __device__ __forceinline__ void match_chunk() {
    __syncthreads();
    find_bounds();
    __syncthreads();
    if (kKeeps && thread_ < count_) chunk_.keys[0][thread_] = nothing_key(thread_);
    list(0, [&](T& bound, int truth) {
      const bool first = may_decide(bound, least_) ||
                         (kKeeps && bound > T(0) && bit_copy<int32_t>(bound) == chunk_.tops[truth]);
      if (first) bound = T(-1);  // not for the second list
      return first;
    });
    __syncthreads();
    look_at(0);
    if constexpr (kKeeps) {
      const TopKey::Bits first = join(0);
      if (thread_ < count_) {
        chunk_.keys[1][thread_] = first;
        chunk_.reached[thread_] = TopKey::overlap(first);
      }
      __syncthreads();
      list(1, [&](T bound, int truth) { return bound > T(0) && !(bound < chunk_.reached[truth]); });
      __syncthreads();
      look_at(1);
      const TopKey::Bits best = join(1);
      if (thread_ < count_) claim_prior(TopKey::best(best, args_.rule.tie_last));
    }
  }

  // Of two slots the one whose priors come first in the order of ties has the larger; never 0.
  __device__ __forceinline__ uint32_t nearness(int slot) const {
    return args_.rule.tie_last ? static_cast<uint32_t>(slot) + 1 : ~static_cast<uint32_t>(slot);
  }
  __device__ __forceinline__ TopKey::Bits nothing_key(int truth) const {
    const uint32_t near = chunk_.zeros[truth];
    if (near == 0) return 0;
    const int slot = static_cast<int>(args_.rule.tie_last ? near - 1 : ~near);
    return TopKey::nothing(first_prior(slot), num_priors_, args_.rule.tie_last);
  }

  __device__ __forceinline__ void find_bounds() {
    for (int pair = thread_; pair < slots_ << bits_; pair += threads_) {
      const int truth = truth_of(pair), slot = pair >> bits_;
      if (truth >= count_) continue;
      const T bound = pair_bound(args_.rule, table_.groups[slot], chunk_.truths[truth]);
      table_.bounds[pair] = bound;
      if (!kKeeps) continue;
      if (bound > T(0)) atomicMax(&chunk_.tops[truth], bit_copy<int32_t>(bound));
      if (bound == T(0)) atomicMax(&chunk_.zeros[truth], nearness(slot));
    }
  }
  __device__ __forceinline__ int truth_of(int pair) const { return pair & ((1 << bits_) - 1); }

  // The pairs that are wanted, in any order. A pair is the same thread's every time.
  template <typename Wanted>
  __device__ __forceinline__ void list(int which, const Wanted& wanted) {
    for (int pair = thread_; pair < slots_ << bits_; pair += threads_) {
      const int truth = truth_of(pair);
      if (truth >= count_ || !wanted(table_.bounds[pair], truth)) continue;
      // nvcc makes one update of those of a warp
      table_.pairs[atomicAdd(&chunk_.listed[which], 1u)] = static_cast<uint16_t>(pair);
    }
  }

  __device__ __forceinline__ void look_at(int which) {
    const int pairs = static_cast<int>(chunk_.listed[which]);
    for (int i = thread_ / 32; i < pairs; i += threads_ / 32) {
      const int pair = table_.pairs[i], truth = truth_of(pair), slot = pair >> bits_;
      const int first = first_prior(slot), p = first + lane_index();
      const bool real = p < num_priors_;
      const Vec4<T> box = chunk_.truths[truth];
      const Vec4<T> prior = real ? args_.rule.corners(priors_[p]) : Vec4<T>{T(0), T(0), T(0), T(0)};
      const T overlap =
          args_.rule.overlap(box, args_.rule.truth_area(box), prior, args_.rule.prior_area(prior));
      const uint32_t ordered = ordered_key(overlap);
      if (real && !(overlap < least_)) {
        atomicMax(&table_.bests[slot * kGroupPriors + lane_index()],
                  TopKey::of(ordered, base_ + truth, args_.rule.tie_last));
      }
      if constexpr (kKeeps) {
        const TopKey::Bits key = warp_top_key(real ? ordered : 0, first, args_.rule.tie_last);
        if (lane_index() == 0) atomicMax(&chunk_.keys[which][truth], key);
      }
    }
  }

  // The best of what the blocks know of the thread's truth.
  __device__ __forceinline__ TopKey::Bits join(int which) {
    cluster_arrive_own();
    cluster_wait();
    TopKey::Bits top = 0;
    if (thread_ >= count_) return top;
#pragma unroll
    for (unsigned i = 0; i < kMostInCluster; ++i) {  // a block twice rather than one after another
      // base_ changes nothing here: without it 16 addresses stay in registers from chunk to chunk
      const unsigned other = (i + static_cast<unsigned>(base_)) & (args_.plan.blocks - 1);
      const TopKey::Bits key = *shared_of_block(&chunk_.keys[which][thread_], other);
      top = key > top ? key : top;
    }
    return top;
  }

  __device__ __forceinline__ void claim_prior(BestPrior<T> best) {
    const int32_t group = best.prior / kGroupPriors,
                  mask = static_cast<int32_t>(args_.plan.blocks) - 1;
    if (best.prior < 0 || (group & mask) != rank_) return;
    const int place = (group >> args_.plan.block_bits) * kGroupPriors + best.prior % kGroupPriors;
    const int32_t truth = base_ + thread_;
    if (args_.rule.is_forced(best.overlap)) atomicMax(&table_.claims[place], truth);
    atomicMax(&table_.renames[place], truth);
  }

  __device__ __forceinline__ void write_codes() {
    int32_t* const codes = args_.codes + image_ * args_.num_priors;
    for (int i = thread_; i < slots_ * kGroupPriors; i += threads_) {
      const int p = first_prior(i / kGroupPriors) + i % kGroupPriors;
      if (p >= num_priors_) break;
      const BestPrior<T> truth = TopKey::best(table_.bests[i], args_.rule.tie_last);
      int32_t code = args_.rule.code(truth.overlap, truth.prior);
      if (kKeeps) {
        if (table_.claims[i] >= 0) code = table_.claims[i];
        if (args_.rule.relabels() && code >= 0 && table_.renames[i] >= 0) code = table_.renames[i];
      }
      codes[p] = code;
    }
  }

  const ClusterArgs<T>& args_;
  ChunkTable<T>& chunk_;
  const GroupTable<T> table_;
  const int thread_, threads_;
  const int64_t image_;
  const int rank_;
  const int num_priors_;         // at most kMostSlots groups of each block
  const Vec4<T>* const priors_;  // of the image
  const T least_;
  int slots_;  // of this block
  Vec4<T> held_[kEach];
  TruthRange range_{};
  int32_t base_ = 0;  // the first truth of the chunk, in the image
  int count_ = 0;     // truths of the chunk
  int bits_ = 0;      // a slot has 1 << bits_ places in bounds
};

// Three blocks a multiprocessor: those of a cluster stay in one part of the card, whose multiprocessors two a piece leave a
// rest that no cluster fits in.
template <typename T, bool kKeeps>
__global__ void __launch_bounds__(kClusterThreads, 3)
    cluster_match_kernel(const ClusterArgs<T> args) {
  if constexpr (kHasClusters) {
    SSD_DYNAMIC_SHARED(unsigned char, memory);
    ClusterMatch<T, kKeeps> match(args, memory);
    match.clear();
    after_all_before();  // the keys of the loss may begin beside it
    match.run();
  } else {
    after_all_before();
  }
}

template <typename T>
inline auto cluster_match_of(const MatchProblem<T>& problem) {
  return problem.rule.forced == Forced::kNone ? cluster_match_kernel<T, false>
                                              : cluster_match_kernel<T, true>;
}

// Of float and argmax or no forced matches, plan.blocks > 0.
template <typename T>
inline cudaError_t launch_cluster_match(const MatchArgs<T>& args, const MatchPlan& plan,
                                        cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(args.batch) * plan.blocks;
  const auto kernel = cluster_match_of(args);
  // Else the driver gives its multiprocessors so much L1 that the keys of the loss find no room beside it: 4 to 8 of 87 us.
  prefer_shared_memory(reinterpret_cast<const void*>(kernel));
  return launch_clusters(plan.blocks, kernel, dim3(blocks), dim3(plan.threads), plan.shared_bytes,
                         stream, ClusterArgs<T>{args, plan});
}

}  // namespace ssd_cuda
