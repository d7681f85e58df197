// The losses of a batch from the sums of its images.
#pragma once

#include "mining/cuda/block_sums.cuh"
#include "multibox/multibox_rule.h"

namespace ssd_cuda {

// What the losses of a batch need of an image, handed from its block to the one that finishes the batch. Each number says by
// itself whether it is there, so that nothing orders them: two fences and the ticket between them were a third of what
// selection takes on an H200.
struct ImageShare {
  static constexpr uint64_t kNone = ~uint64_t{0};
  uint64_t loc, conf, counts;  // counts: localized rows, above them those that are selected

  // By the kernel before the one that puts and waits.
  __device__ __forceinline__ void clear() { loc = conf = counts = kNone; }

  __device__ __forceinline__ void put(const ImageSums& sums) {
    store_relaxed(&loc, number(sums.loc));
    store_relaxed(&conf, number(sums.conf));
    store_relaxed(&counts, static_cast<uint64_t>(sums.positives + sums.negatives) << 32 |
                               static_cast<uint64_t>(sums.localized));
  }
  // What was put, all that is selected as positives. Ends only if the block that puts has begun.
  __device__ __forceinline__ ImageSums wait() const {
    uint64_t found[3];
    do {  // all asked for at once
      found[0] = load_relaxed(&loc);
      found[1] = load_relaxed(&conf);
      found[2] = load_relaxed(&counts);
    } while (found[0] == kNone || found[1] == kNone || found[2] == kNone);
    ImageSums sums{};
    sums.loc = __longlong_as_double(static_cast<long long>(found[0]));
    sums.conf = __longlong_as_double(static_cast<long long>(found[1]));
    sums.localized = static_cast<int64_t>(found[2] & 0xffffffffu);
    sums.positives = static_cast<int64_t>(found[2] >> 32);
    return sums;
  }

 private:
  // kNone is one of the many NaN: another stands for it.
  __device__ __forceinline__ static uint64_t number(double sum) {
    const auto bits = static_cast<uint64_t>(__double_as_longlong(sum));
    return bits == kNone ? kNone - 1 : bits;
  }
};

// The normaliser and both losses, by one warp: lane l adds the images l, l + 32, ..., then a tree.
// args: images, rule and what LossOutputs has of a batch; sums_of(b): the sums of an image.
template <typename Args, typename SumsOf>
__device__ __forceinline__ void finish_batch(const Args& args, const SumsOf& sums_of) {
  using T = std::remove_pointer_t<decltype(args.scales)>;
  Denominator batch{};
  ImageSums own{};  // of the lane's first image, loaded once
  const int64_t lane = threadIdx.x;
  if (lane < args.images) {
    own = sums_of(lane);
    batch.add(own);
  }
  for (int64_t b = lane + 32; b < args.images; b += 32) batch.add(sums_of(b));
  // Fewer than 2^54 rows, in two sums of 27 bits a lane: a tree of 64 bits is 20 instructions in a row.
  const auto add_lanes = [](int64_t& n) {
    constexpr int kBits = 27;
    const unsigned low = warp_sum(static_cast<unsigned>(n) & ((1u << kBits) - 1));
    n = low + (int64_t{warp_sum(static_cast<unsigned>(n >> kBits))} << kBits);
  };
  add_lanes(batch.localized);  // the others only where image_scale divides by them
  if (args.rule.loss.normalizer == Normalizer::kSelected) add_lanes(batch.selected);
  if (args.rule.loss.normalizer == Normalizer::kMinOne) add_lanes(batch.at_least_one);
  double loc = 0, conf = 0;
  for (int64_t b = lane; b < args.images; b += 32) {
    const ImageSums image = b < 32 ? own : sums_of(b);
    const double scale = image_scale(args.rule.loss, batch, image.localized, args.images);
    loc += image_share(image.loc, scale);
    conf += image_share(image.conf, scale);
    args.scales[b] = static_cast<T>(scale);
  }
  for (int step = 16; step > 0; step /= 2) {
    loc += __shfl_xor_sync(kFullWarp, loc, step);
    conf += __shfl_xor_sync(kFullWarp, conf, step);
  }
  if (threadIdx.x != 0) return;
  *args.localization = static_cast<T>(loc * args.rule.loss.loc_factor);
  *args.classification = static_cast<T>(conf);
  *args.num_positives = batch.localized;
}

}  // namespace ssd_cuda
