// Matching in one kernel: a cluster of 4 or 8 blocks an image (fewer where there are few priors), from sm_90 on.
//
// Block r of n has every n-th group of 32 priors, from the r-th on, so that large priors, which most truths overlap, are dealt
// out. All that the blocks find out stands in shared memory; what each of them knows of a truth's best prior is put together
// through the cluster. Of 128 truths at a time:
//
//   bound    of each truth and group (prior_group.h), a thread one truth and some groups; lists the pairs that may decide a
//            code, and notes of each truth the largest bound and the nearest group of bound 0
//   list     of a truth whose largest bound decides nothing, that pair; dealt out one by one, since each has its group
//   look     a warp some neighbours of the list: the prior's best truth, the truth's best prior, both maxima of TopKey
//   join     cluster barrier; the best prior of a truth so far, of all blocks
//   list, look, join    the pairs that could still be better
//   claim    each block, for its own priors: the last truth that claims a prior, and the last that renames it. They stand
//            beside the codes, which a later chunk may still decide
//
// and then each code is written once. Maxima have no order: the result is that of the three kernels, bit for bit.
//
// Reads 16 B a prior twice, 16 B a truth and block; writes 4 B a prior. Shared memory: 6 KB, 41 B a prior of the block.
//
// Took 5.7 us of one image, 8.9 of 32 with 7 truths, 33 with 100 on an H200 when a bound was 94 instructions, each of two
// lists a pass of 50, and each pair of a look 140 with a load of its priors. With 40 registers three blocks fit a
// multiprocessor and all 32 clusters run at once; with 60, two blocks and 30 clusters, it was 11.7 (of 4 blocks 10.5) and 38.
// By count, from the machine's code of sm_90, in a warp's chain of 7 truths (B = 32, P = 8732, 8 blocks of 512 threads): 105
// to the loads of priors and offsets, which go side by side, 31 to that of truths, 190 for groups beside it; 30 and 70 a
// bound, 15 where it is listed, 58 for the pair of the largest; 95 a pair and 50 a group of a run (two pairs of the first look,
// one of the second); a cluster barrier, a load from another block and 55, twice; a second list of 15 and 13 a pair, 45 to
// claim, 52 a prior to write: 1,350 instructions for 1,430, 8.4 us. Of 100 truths a thread has 9 bounds, and the slowest warp
// of a cluster looks at 13 pairs of 8 groups, then at 3 of 2: 3,800 for 4,750, and 10 loads of priors for 16: 24 us.
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
  static constexpr int kTops = 2;  // the list of them, behind those of the two looks
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
    if (thread_ < kLists) chunk_.listed[thread_] = 0;
  }

  __device__ __forceinline__ void match_chunk() {
    __syncthreads();
    find_bounds();
    __syncthreads();
    if constexpr (kKeeps) {
      if (thread_ < count_) {
        chunk_.keys[0][thread_] = nothing_key(thread_);
        list_top(thread_);
      }
      __syncthreads();
    }
    look_at(0, static_cast<int>(chunk_.listed[kTops]));
    if constexpr (kKeeps) {
      join(0, [&](int truth, TopKey::Bits best) {
        chunk_.keys[1][truth] = best;
        chunk_.reached[truth] = TopKey::overlap(best);
      });
      __syncthreads();
      list_second();
      __syncthreads();
      look_at(1, 0);
      join(1, [&](int truth, TopKey::Bits best) {
        claim_prior(base_ + truth, TopKey::best(best, args_.rule.tie_last));
      });
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

  // A slot and its bound above 0 as one number above 0, whose order is that of the bounds but for their last bits.
  static __device__ __forceinline__ int32_t top_of(T bound, int slot) {
    return (bit_copy<int32_t>(bound) & ~(kMostSlots - 1)) | slot;
  }
  __device__ __forceinline__ int truth_of(int pair) const { return pair & ((1 << bits_) - 1); }
  // each(slot, pair) for this thread's pairs, which are all of truth_of(thread_).
  template <typename Each>
  __device__ __forceinline__ void each_pair(const Each& each) const {
    const int step = threads_ >> bits_;
    int pair = thread_;
    for (int slot = thread_ >> bits_; slot < slots_; slot += step) {
      each(slot, pair);
      pair += threads_;
    }
  }
  // In any order; place(i): where the i-th of the list stands. nvcc makes one update of those of a warp.
  template <typename Place>
  __device__ __forceinline__ void list(int which, int pair, const Place& place) {
    table_.pairs[place(static_cast<int>(atomicAdd(&chunk_.listed[which], 1u)))] =
        static_cast<uint16_t>(pair);
  }
  __device__ __forceinline__ void list(int which, int pair) {
    list(which, pair, [](int i) { return i; });
  }
  // The first list and that of tops share the memory, one from each end: no pair is in both.
  __device__ __forceinline__ int place_of_top(int i) const { return (slots_ << bits_) - 1 - i; }

  // And lists the pairs that may decide a code; where that is all that they are wanted for, their bounds are not kept.
  __device__ __forceinline__ void find_bounds() {
    const int truth = truth_of(thread_);
    if (truth >= count_) return;
    const TruthBounds<T> own(args_.rule, chunk_.truths[truth]);
    int32_t top = 0;
    uint32_t near = 0;
    each_pair([&](int slot, int pair) {
      const T bound = own.of(table_.groups[slot], args_.rule.eps);
      const bool decides = may_decide(bound, least_);
      if (decides) list(0, pair);
      if constexpr (kKeeps) {
        table_.bounds[pair] = decides ? T(-1) : bound;  // not for the second list
        top = max_of(top, bound > T(0) ? top_of(bound, slot) : 0);
        near = max_of(near, bound == T(0) ? nearness(slot) : 0u);
      }
    });
    if (kKeeps && top > 0) atomicMax(&chunk_.tops[truth], top);
    if (kKeeps && near > 0) atomicMax(&chunk_.zeros[truth], near);
  }
  // The truth's pair of the largest bound, where it decides no code: it nearly always overlaps more than the other bounds.
  __device__ __forceinline__ void list_top(int truth) {
    const int32_t top = chunk_.tops[truth];
    if (top == 0) return;
    const int pair = (top & (kMostSlots - 1)) << bits_ | truth;
    if (table_.bounds[pair] < T(0)) return;
    table_.bounds[pair] = T(-1);
    list(kTops, pair, [&](int i) { return place_of_top(i); });
  }
  // The pairs that could still be better than what has been found.
  __device__ __forceinline__ void list_second() {
    const int truth = truth_of(thread_);
    if (truth >= count_) return;
    const T reached = chunk_.reached[truth];
    each_pair([&](int, int pair) {
      const T bound = table_.bounds[pair];
      if (bound > T(0) && !(bound < reached)) list(1, pair);
    });
  }

  // A warp a run of the list, in which the pairs of a group are mostly neighbours: its priors and the best truth of each
  // stay in registers. Then some of `tops`, which have a group each: those of the last warps, whose runs are shorter, first.
  __device__ __forceinline__ void look_at(int which, int tops) {
    const int pairs = static_cast<int>(chunk_.listed[which]), warp_bits = 31 - __clz(threads_ / 32);
    const int warps = 1 << warp_bits, warp = thread_ / 32, each = (pairs + warps - 1) >> warp_bits;
    const int begin = min(warp * each, pairs), run = min(each, pairs - begin);
    const int behind = warps - 1 - warp, count = run + ((tops + warp) >> warp_bits);
    int slot = -1;
    bool real = false;
    Vec4<T> prior{};
    TopKey::Bits best = 0;
    for (int i = 0; i < count; ++i) {
      const int place = i < run ? begin + i : place_of_top(behind + ((i - run) << warp_bits));
      const int pair = table_.pairs[place], truth = truth_of(pair);
      if (pair >> bits_ != slot) {
        keep_best(slot, best);
        slot = pair >> bits_;
        best = 0;
        const int p = first_prior(slot) + lane_index();
        real = p < num_priors_;
        if (real) prior = args_.rule.corners(priors_[p]);
      }
      const Vec4<T> box = chunk_.truths[truth];
      const T overlap =
          args_.rule.overlap(box, args_.rule.truth_area(box), prior, args_.rule.prior_area(prior));
      const uint32_t ordered = ordered_key(overlap);
      if (real && !(overlap < least_)) {
        best = max_of(best, TopKey::of(ordered, base_ + truth, args_.rule.tie_last));
      }
      if constexpr (kKeeps) {
        const TopKey::Bits key =
            warp_top_key(real ? ordered : 0, first_prior(slot), args_.rule.tie_last);
        if (lane_index() == 0) atomicMax(&chunk_.keys[which][truth], key);
      }
    }
    keep_best(slot, best);
  }
  __device__ __forceinline__ void keep_best(int slot, TopKey::Bits best) {
    if (best != 0) atomicMax(&table_.bests[slot * kGroupPriors + lane_index()], best);
  }

  // use(truth, key) with the best of what the blocks know of each truth, by one thread each. A team has a truth, a lane a
  // block; of fewer blocks some twice.
  template <typename Use>
  __device__ __forceinline__ void join(int which, const Use& use) {
    cluster_arrive_own();
    cluster_wait();
    constexpr int kLanes = static_cast<int>(kMostInCluster);
    for (int base = 0; base < count_ * kLanes; base += threads_) {
      const int truth = (base + thread_) / kLanes;
      TopKey::Bits top = 0;
      if (truth < count_) {
        const unsigned block = static_cast<unsigned>(thread_) & (args_.plan.blocks - 1);
        top = *shared_of_block(&chunk_.keys[which][truth], block);
      }
      for (int delta = kLanes / 2; delta > 0; delta /= 2) {
        top = max_of(top, __shfl_xor_sync(kFullWarp, top, delta));
      }
      if (truth < count_ && thread_ % kLanes == 0) use(truth, top);
    }
  }

  __device__ __forceinline__ void claim_prior(int32_t truth, BestPrior<T> best) {
    const int32_t group = best.prior / kGroupPriors,
                  mask = static_cast<int32_t>(args_.plan.blocks) - 1;
    if (best.prior < 0 || (group & mask) != rank_) return;
    const int place = (group >> args_.plan.block_bits) * kGroupPriors + best.prior % kGroupPriors;
    if (args_.rule.is_forced(best.overlap)) atomicMax(&table_.claims[place], truth);
    atomicMax(&table_.renames[place], truth);
  }

  __device__ __forceinline__ void write_codes() {
    int32_t* const codes = args_.codes + image_ * args_.num_priors;
    int p = first_prior(thread_ / kGroupPriors) + thread_ % kGroupPriors;
    for (int i = thread_; i < slots_ * kGroupPriors; i += threads_) {
      if (p >= num_priors_) break;
      const BestPrior<T> truth = TopKey::best(table_.bests[i], args_.rule.tie_last);
      int32_t code = args_.rule.code(truth.overlap, truth.prior);
      if (kKeeps) {
        if (table_.claims[i] >= 0) code = table_.claims[i];
        if (args_.rule.relabels() && code >= 0 && table_.renames[i] >= 0) code = table_.renames[i];
      }
      codes[p] = code;
      p += threads_ << args_.plan.block_bits;
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
