// The losses of a batch from the sums of its images.
#pragma once

#include "common/cuda/launch.cuh"
#include "multibox/multibox_rule.h"

namespace ssd_cuda {

// The normaliser and both losses, by one warp: lane l adds the images l, l + 32, ..., then a tree.
// args: sums [B], images, rule and what LossOutputs has of a batch.
template <typename Args>
__device__ __forceinline__ void finish_batch(const Args& args) {
  using T = std::remove_pointer_t<decltype(args.scales)>;
  Denominator batch{};
  ImageSums own{};  // of the lane's first image, loaded once
  const int64_t lane = threadIdx.x;
  if (lane < args.images) {
    own = args.sums[lane];
    batch.add(own);
  }
  for (int64_t b = lane + 32; b < args.images; b += 32) batch.add(args.sums[b]);
  const auto add_lanes = [](int64_t& n) {
    for (int step = 16; step > 0; step /= 2) n += __shfl_xor_sync(kFullWarp, n, step);
  };
  add_lanes(
      batch
          .localized);  // the others only where image_scale divides by them: a tree is 20 instructions in a row
  if (args.rule.loss.normalizer == Normalizer::kSelected) add_lanes(batch.selected);
  if (args.rule.loss.normalizer == Normalizer::kMinOne) add_lanes(batch.at_least_one);
  double loc = 0, conf = 0;
  for (int64_t b = lane; b < args.images; b += 32) {
    const ImageSums image = b < 32 ? own : args.sums[b];
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
