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
  ImageShare* shares;               // [B], none there at first
  ImageSums* sums;                  // [B], where the batch is ranked as a whole
  BatchSearch<Ordered<T>>* search;  // where the batch is ranked as a whole
  unsigned* ties;                   // see batch_select.cuh
};

// The sum of value(i) over i < count, i = lane, lane + 32, ..., in this order. Four are loaded before they are added: 69 tiles
// are one wait and not three.
template <typename T, typename Value>
__device__ __forceinline__ T lane_total(int64_t count, const Value& value) {
  constexpr int kAhead = 4;
  T sum = 0;
#pragma unroll 1
  for (int64_t first = threadIdx.x % 32; first < count; first += 32 * kAhead) {
    T next[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      next[j] = first + 32 * j < count ? value(first + 32 * j) : T{0};
#pragma unroll
    for (int j = 0; j < kAhead; ++j) sum += next[j];
  }
  return sum;
}

// The sums of an image's tiles, all but the negatives. Those in double are left in the sums of a warp's lanes: their trees, ten
// instructions that wait for each other, are for when somebody needs them, beside others.
struct TileTotals {
  double loc[32], conf[32];
  unsigned positives, candidates, localized;  // rows of an image: fewer than 2^31

  // Each value by a warp of its own, all at once.
  __device__ __forceinline__ void add(const ImageSums* tiles, int64_t count) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const auto add_rows = [&](int number, auto member, unsigned& total) {
      if (warp != number) return;
      const auto rows = [&](int64_t i) { return tiles[i].*member; };
      const unsigned sum = warp_sum(static_cast<unsigned>(lane_total<int64_t>(count, rows)));
      if (threadIdx.x % 32 == 0) total = sum;
    };
    const auto add_losses = [&](int number, auto member, double* lanes) {
      if (warp != number) return;
      const auto losses = [&](int64_t i) { return tiles[i].*member; };
      lanes[threadIdx.x % 32] = lane_total<double>(count, losses);
    };
    add_rows(0, &ImageSums::positives, positives);
    add_rows(1, &ImageSums::candidates, candidates);
    add_losses(2, &ImageSums::loc, loc);
    add_losses(3, &ImageSums::conf, conf);
    add_rows(4, &ImageSums::localized, localized);
  }
  // What they were once.
  __device__ __forceinline__ void set(const ImageSums& sums) {
    if (threadIdx.x >= 32) return;
    loc[threadIdx.x] = threadIdx.x == 0 ? sums.loc : 0;
    conf[threadIdx.x] = threadIdx.x == 0 ? sums.conf : 0;
    if (threadIdx.x != 0) return;
    positives = static_cast<unsigned>(sums.positives);
    candidates = static_cast<unsigned>(sums.candidates);
    localized = static_cast<unsigned>(sums.localized);
  }
  // By one warp, the same on each of its lanes.
  __device__ __forceinline__ ImageSums sums() const {
    return {warp_reduce(loc[threadIdx.x % 32], Add{}),
            warp_reduce(conf[threadIdx.x % 32], Add{}),
            positives,
            localized,
            candidates,
            0};
  }
};

// The keys of keys_kernel as a loader of RowKeys.
template <typename U>
struct MadeKeys : Unlimited<U> {
  const U* row;
  __device__ __forceinline__ explicit MadeKeys(const U* keys) : row(keys) {}
  __device__ __forceinline__ U fetch(int64_t i) const { return row[i]; }
  __device__ __forceinline__ U key(U made, bool) const { return made; }
  template <typename Fn>
  __device__ __forceinline__ void with(const Fn& fn) const {
    fn(*this);
  }
};

// Shared memory of select_kernel.
template <typename T>
struct LossShared {
  SelectShared<Ordered<T>> select;
  double conf[kSelectWarps];
  unsigned negatives[kSelectWarps];
  TileTotals tiles;
  ImageSums total;  // of the image, for the first warp
  bool last;        // whether this block finishes the batch
};
static_assert(sizeof(LossShared<double>) <= kSelectStatic,
              "the rest of shared memory may hold keys");

// Adds up what counts in one image to the sums of its tiles, in shared.total for the first warp, and writes what the batch
// and the backward need of it.
template <typename T, typename Keys>
__device__ __forceinline__ void add_selected(const SelectArgs<T>& args, int64_t image,
                                             const Keys& keys, RowCut<Ordered<T>> cut,
                                             LossShared<T>& shared) {
  using U = Ordered<T>;
  // Counted from this thread's first index on, the others are constants where keys are in registers.
  const auto start = static_cast<typename Keys::Index>(threadIdx.x);
  auto in_row = selectable_cut(cut, keys.width);
  in_row.tie -= start;
  const U* row = args.keys + image * args.width;
  const U fill = positive_key<T>(args.rule.mining);
  const T* const losses =
      args.targets.keeps_losses(args.rule.loss) ? args.row_loss + image * args.width : nullptr;
  double conf = 0;
  unsigned negatives = 0;
  const auto add = [&](const auto& loss_of) {
    keys.each([&](U key, auto p) {
      const bool counts = (key != fill) & is_selected(key, p - start, in_row);
      if (!counts) return;
      ++negatives;
      conf += static_cast<double>(loss_of(key, p));
    });
  };
  if (losses != nullptr) {
    add([&](U, auto p) { return losses[p]; });
  } else {
    add([](U key, auto) { return key_value<T>(key); });
  }
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
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  conf = warp_reduce(conf, Add{});
  negatives = warp_sum(negatives);
  if (lane == 0) shared.conf[warp] = conf, shared.negatives[warp] = negatives;
  __syncthreads();
  if (warp != 0) return;
  ImageSums sums = shared.tiles.sums();
  conf = warp_reduce(shared.conf[lane], Add{});
  negatives = warp_sum(shared.negatives[lane]);
  if (lane != 0) return;
  sums.conf += conf;
  sums.negatives = negatives;
  args.shares[image].put(sums);
  shared.total = sums;
  args.cuts[2 * image] = static_cast<int64_t>(cut.threshold);
  args.cuts[2 * image + 1] = cut.tie;
}

// Decides who finishes the batch: the block that is the last to come here, long before its image is done, so that nobody
// waits for the ticket. All others have begun by then and wait for nobody: that they end can be waited for. By one thread,
// of a warp that has no tiles to add; a barrier must follow.
template <typename T>
__device__ __forceinline__ void take_ticket(const SelectArgs<T>& args, LossShared<T>& shared) {
  if (threadIdx.x != kSelectBlock - 1) return;
  shared.last = gridDim.x == 1 || atomicAdd(args.arrived, 1u) == gridDim.x - 1;
}

// Finishes the batch where this block has to, by the warp that has made the sums of its image.
template <typename T>
__device__ __forceinline__ void finish_if_last(const SelectArgs<T>& args, LossShared<T>& shared) {
  if (threadIdx.x >= 32) return;
  __syncwarp();
  if (!shared.last) return;
  finish_batch(args, [&](int64_t image) {
    return image == blockIdx.x ? shared.total : args.shares[image].wait();
  });
}

// Selects the negatives of one image and adds up what counts in it.
template <typename T, int kPerThread>
__device__ __forceinline__ void select_image(const SelectArgs<T>& args, int64_t image,
                                             LossShared<T>& shared) {
  using U = Ordered<T>;
  const MadeKeys<U> load(args.keys + image * args.width);
  const RowKeys<kPerThread, MadeKeys<U>, U> keys(load, args.width);  // on their way meanwhile
  take_ticket(args, shared);
  shared.tiles.add(args.tiles + image * args.tiles_per_image, args.tiles_per_image);
  count_first_digit<U>(keys, shared.select);
  __syncthreads();
  const Scan scan = scan_histogram(shared.select);
  const int k =
      num_hard_negatives(args.rule.mining, static_cast<int>(shared.tiles.positives),
                         static_cast<int>(shared.tiles.candidates), static_cast<int>(args.width));
  add_selected(args, image, keys, select_row<false, U>(keys, k, scan, shared.select), shared);
}

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, 1) select_kernel(SelectArgs<T> args) {
  __shared__ LossShared<T> shared;
  begin_selection(shared.select);
  after_previous_kernel();
  if (blockIdx.x < args.images) {
    select_image<T, kPerThread>(args, blockIdx.x, shared);
  } else {
    take_ticket(args, shared);
    __syncthreads();
  }
  finish_if_last(args, shared);
}

}  // namespace ssd_cuda
