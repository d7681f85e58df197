// The second launch of the MultiBox loss: which negatives count, the sums over all rows that do, the normaliser.
#pragma once

#include "finish.cuh"
#include "mining/cuda/batch_select.cuh"
#include "mining/cuda/select.cuh"
#include "multibox/multibox_rule.h"

namespace ssd_cuda {

template <typename T>
struct SelectArgs : LossOutputs<T> {
  const T* row_loss;       // [B, P] or null
  const ImageSums* tiles;  // [B, tiles_per_image]
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width, tiles_per_image;
  unsigned* arrived;                // [], 0 at first
  ImageSums* sums;                  // [B]
  BatchSearch<Ordered<T>>* search;  // where the batch is ranked as a whole
  unsigned* ties;                   // see batch_select.cuh
};

// The sum of value(i) over i < count by one warp, on each of its lanes: a lane adds every 32nd, then a tree.
template <typename T, typename Value>
__device__ __forceinline__ T warp_total(int64_t count, const Value& value) {
  T sum = 0;
  for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += value(i);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

// The sums of an image's tiles: each of six values by a warp of its own, all at once.
__device__ inline void add_tiles(const ImageSums* tiles, int64_t count, ImageSums& total) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool first = threadIdx.x % 32 == 0;
  const auto add = [&](int number, auto member) {
    if (warp != number) return;
    using Value = std::remove_reference_t<decltype(total.*member)>;
    const Value sum = warp_total<Value>(count, [&](int64_t i) { return tiles[i].*member; });
    if (first) total.*member = sum;
  };
  add(0, &ImageSums::loc);
  add(1, &ImageSums::conf);
  add(2, &ImageSums::positives);
  add(3, &ImageSums::localized);
  add(4, &ImageSums::candidates);
  add(5, &ImageSums::negatives);
}

// The keys of keys_kernel as a loader of RowKeys.
template <typename U>
struct MadeKeys {
  const U* row;
  __device__ __forceinline__ U operator()(int64_t i) const { return row[i]; }
  template <typename Fn>
  __device__ __forceinline__ void with(const Fn& fn) const {
    fn(*this);
  }
};

// Shared memory of select_kernel.
struct LossShared {
  SelectShared select;
  double doubles[kSelectWarps];
  ImageSums total;  // in registers it would crowd out the keys
  bool last;
};
static_assert(sizeof(LossShared) <= kSelectStatic, "the rest of shared memory may hold keys");

// Adds up what counts in one image, beside the sums of its tiles in shared.total, and writes sums and cut.
template <typename T, typename Keys>
__device__ __forceinline__ void add_selected(const SelectArgs<T>& args, int64_t image,
                                             const Keys& keys, RowCut<Ordered<T>> cut,
                                             LossShared& shared) {
  using U = Ordered<T>;
  const U* row = args.keys + image * args.width;
  const U fill = positive_key<T>(args.rule.mining);
  const T* const losses =
      args.targets.keeps_losses(args.rule.loss) ? args.row_loss + image * args.width : nullptr;
  double conf = 0;
  unsigned negatives = 0;
  keys.each([&](U key, int64_t p) {
    if (key == kExcluded<U> || key == fill || !is_selected(key, p, cut)) return;
    ++negatives;
    conf += static_cast<double>(losses != nullptr ? losses[p] : key_value<T>(key));
  });
  // Negatives and ignored rows may share the key of the positives: only the targets tell. Seldom reached.
  for (int64_t p = threadIdx.x; fill >= cut.threshold && p < args.width; p += kSelectBlock) {
    if (row[p] != fill || !is_selected(fill, p, cut)) continue;
    const RowKind kind = args.targets.row(image, p, args.rule.label).kind;
    if (is_candidate(kind)) {
      ++negatives;
      conf += static_cast<double>(losses != nullptr ? losses[p] : key_value<T>(fill));
    } else if (kind == RowKind::kPositive && args.rule.loss.positives_twice) {
      conf += static_cast<double>(args.row_loss[image * args.width + p]);
    }
  }
  conf = block_reduce(conf, shared.doubles, [](double x, double y) { return x + y; });
  negatives = block_reduce(negatives, shared.select.warp_total,
                           [](unsigned x, unsigned y) { return x + y; });
  if (threadIdx.x != 0) return;
  ImageSums sums = shared.total;
  sums.conf += conf;
  sums.negatives = negatives;
  args.sums[image] = sums;
  args.cuts[2 * image] = static_cast<int64_t>(cut.threshold);
  args.cuts[2 * image + 1] = cut.tie;
}

// The block that arrives last finishes the batch.
template <typename T>
__device__ __forceinline__ void finish_if_last(const SelectArgs<T>& args, LossShared& shared) {
  if (threadIdx.x == 0) {
    __threadfence();  // the sums of this image, before the arrival
    shared.last = gridDim.x == 1 || atomicAdd(args.arrived, 1u) == gridDim.x - 1;
    __threadfence();  // the sums of the others, after theirs
  }
  __syncthreads();
  if (shared.last && threadIdx.x < 32) finish_batch(args);
}

// Selects the negatives of one image and adds up what counts in it.
template <typename T, int kPerThread>
__device__ __forceinline__ void select_image(const SelectArgs<T>& args, int64_t image,
                                             LossShared& shared) {
  using U = Ordered<T>;
  const MadeKeys<U> load{args.keys + image * args.width};
  const RowKeys<kPerThread, decltype(load), U> keys(load, args.width);  // on their way meanwhile
  add_tiles(args.tiles + image * args.tiles_per_image, args.tiles_per_image, shared.total);
  __syncthreads();
  const int64_t k = num_hard_negatives(args.rule.mining, shared.total.positives,
                                       shared.total.candidates, args.width);
  add_selected(args, image, keys, select_row<false, U>(keys, k, shared.select), shared);
}

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, 1) select_kernel(SelectArgs<T> args) {
  after_previous_kernel();
  __shared__ LossShared shared;
  if (blockIdx.x < args.images) select_image<T, kPerThread>(args, blockIdx.x, shared);
  finish_if_last(args, shared);
}

}  // namespace ssd_cuda
