// The fused MultiBox loss.
//
//   1 keys      a tile of rows: per row log-sum-exp -> cross entropy -> 4-byte key; partial sums per tile; where a
//               gradient will be wanted, a part of its zeros
//   2 select    a block an image: k from its positives, radix selection, sums over the selected rows; the block that
//               arrives last makes the normaliser and both losses, added in the order of the images
//   3 backward  (backward.cuh) the few rows that count are read again and written over the zeros
//
// 1 stages the tile's logits in shared memory with coalesced copies (rows lie one after the other in [B, P, C], where
// they go past the registers by cp.async, so that a whole tile is on its way at once; classes in [B, C, P]), then each
// thread owns a row; the row pitch keeps banks apart. The zeros depend on nothing: their stores are issued while the
// copies are on their way. Bytes for [B, P, C] of S: forward reads B P (C |S| + 4) and writes 4 B P (+ 4 B P read by 2)
// and B P C |S| of zeros; backward is a few percent of that. No other [B, P, C] temporary, no host value.
// Sums are double, in trees and orders that no scheduling changes. Arrivals are counted in a number that 1 sets to 0:
// nothing outlives a call, so calls on several streams and replays of a graph do not meet.
#pragma once

#include "backward.cuh"
#include "finish.cuh"
#include "mining/cuda/select.cuh"
#include "row_loss.cuh"

namespace ssd_cuda {

template <typename S, typename T>
struct MultiBoxArgs : LossInputs<S, T> {
  Ordered<T>* keys;  // [B, P]
  T* row_loss;  // [B, P], or null: written at positives, which may count twice; see keeps_losses
  ImageSums* tiles;   // [B, tiles an image]
  unsigned* arrived;  // [], set to 0
  ZeroedRows<S> zeros;
};

template <typename T>
struct SelectArgs : LossOutputs<T> {
  const T* row_loss;       // [B, P] or null
  const ImageSums* tiles;  // [B, tiles_per_image]
  Targets<T> targets;
  MultiBoxRule rule;
  int64_t images, width, tiles_per_image;
  unsigned* arrived;  // [], 0 at first
  ImageSums* sums;    // [B]
};

// The sum over a block of kTileBlock threads, on thread 0.
__device__ inline double tile_sum(double value, double* scratch) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kTileBlock / 32; ++w) value += scratch[w];
  return value;
}

// kGeneral: with the terms of the classes and losses of boxes. A kernel of its own, so that the plain one keeps its registers.
template <typename S, typename T, bool kGeneral>
__global__ void __launch_bounds__(kTileBlock, (sizeof(T) == 8 ? 640 : 1024) / kTileBlock)
    keys_kernel(MultiBoxArgs<S, T> args, TilePlan plan) {
  after_previous_kernel();
  SSD_DYNAMIC_SHARED(S, tile);
  __shared__ double scratch[kTileBlock / 32];
  const int64_t tiles = plan.tiles(args.width);
  const int64_t image = blockIdx.x / tiles, begin = blockIdx.x % tiles * plan.rows;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < plan.rows ? left : plan.rows);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const int t = static_cast<int>(threadIdx.x);
  const S* staged = nullptr;
  if (plan.pitch > 0) {
    staged = stage_tile(args.conf, image, begin, rows, classes, plan.pitch, tile);
  }
  args.zeros.clear_part();
  if (plan.pitch > 0) {
    wait_copies();
    __syncthreads();
  }
  Row row{RowKind::kIgnored, 0};
  double loc = 0, conf = 0;
  if (t < rows) {
    const int64_t p = begin + t, place = image * args.width + p;
    row = args.targets.row(image, p, args.rule.label);
    T loss, rank;
    if constexpr (kGeneral) {
      const auto& terms = args.targets.terms;
      const RowLoss<T> both =
          plan.pitch > 0
              ? row_loss_of_terms<T>(staged + t * plan.pitch, 1, classes, row.label, terms)
              : row_loss_of_terms<T>(args.conf.at(image, p), args.conf.class_stride, classes,
                                     row.label, terms);
      const bool kept = args.targets.keeps_losses(args.rule.loss);
      loss = both.loss;
      rank = kept ? both.plain : both.loss;
      if (kept) args.row_loss[place] = loss;
    } else {
      loss = plan.pitch > 0 ? staged_cross_entropy<T>(staged + t * plan.pitch, classes, row.label)
                            : row_cross_entropy<T>(args.conf.at(image, p), args.conf.class_stride,
                                                   classes, row.label);
      rank = loss;
    }
    Ordered<T> key = ordered_key(rank);
    if (row.kind == RowKind::kIgnored) key = ignored_key<T>(args.rule.label);
    if (row.kind == RowKind::kPositive) {
      key = positive_key<T>(args.rule.mining);
      conf = static_cast<double>(loss);
      if (args.row_loss != nullptr) args.row_loss[place] = loss;
    }
    args.keys[place] = key;
    if (kGeneral && is_localized(row.kind) && is_box_loss(args.rule.loss.loc)) {
      const Vec4<T> x = loc_row<S, T>(args.loc, image, p);
      loc = static_cast<double>(args.targets.box_loss(image, p, x, args.rule.loss.loc).value);
    } else if (is_localized(row.kind)) {
      const Vec4<T> d = loc_difference(args.loc, args.targets, image, p);
      const T beta = static_cast<T>(args.rule.loss.beta);
      loc = static_cast<double>(smooth_l1(d.x, beta)) + smooth_l1(d.y, beta) +
            smooth_l1(d.z, beta) + smooth_l1(d.w, beta);
    }
  }
  const bool inside = t < rows;
  ImageSums sums{};
  sums.positives = __syncthreads_count(inside && row.kind == RowKind::kPositive);
  sums.localized = __syncthreads_count(inside && is_localized(row.kind));
  sums.candidates = __syncthreads_count(inside && is_candidate(row.kind));
  if (sums.localized > 0) {  // the same on every thread; most tiles have none
    sums.loc = tile_sum(loc, scratch);
    sums.conf = tile_sum(conf, scratch);
  }
  if (t == 0) args.tiles[blockIdx.x] = sums;
  if (t == 0 && blockIdx.x == 0) *args.arrived = 0;
}

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

// Selects the negatives of one image and adds up what counts in it.
template <typename T, int kPerThread>
__device__ __forceinline__ void select_image(const SelectArgs<T>& args, int64_t image,
                                             LossShared& shared) {
  using U = Ordered<T>;
  const U* row = args.keys + image * args.width;
  const MadeKeys<U> load{row};
  const RowKeys<kPerThread, decltype(load), U> keys(load, args.width);  // on their way meanwhile
  add_tiles(args.tiles + image * args.tiles_per_image, args.tiles_per_image, shared.total);
  __syncthreads();
  const int64_t k = num_hard_negatives(args.rule.mining, shared.total.positives,
                                       shared.total.candidates, args.width);
  const RowCut<U> cut = select_row<false, U>(keys, k, shared.select);
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

template <typename T, int kPerThread>
__global__ void __launch_bounds__(kSelectBlock, 1) select_kernel(SelectArgs<T> args) {
  after_previous_kernel();
  __shared__ LossShared shared;
  if (blockIdx.x < args.images) select_image<T, kPerThread>(args, blockIdx.x, shared);
  if (threadIdx.x == 0) {
    __threadfence();  // the sums of this image, before the arrival
    shared.last = gridDim.x == 1 || atomicAdd(args.arrived, 1u) == gridDim.x - 1;
    __threadfence();  // the sums of the others, after theirs
  }
  __syncthreads();
  if (shared.last && threadIdx.x < 32) finish_batch(args);
}

// The forward: its two launches, with the scratch memory that one hands to the other.
template <typename S, typename T>
struct LossPlan {
  TilePlan tile;
  MultiBoxArgs<S, T> keys;
  SelectArgs<T> select;

  // zeros: [B, P, C], what backward_kernel writes to, or null; take: see common/cuda/workspace.h
  template <typename Take>
  LossPlan(const LossInputs<S, T>& inputs, const LossOutputs<T>& outputs, S* zeros,
           const Take& take)
      : tile(plan_tile<S>(inputs.rule.label.num_classes)) {
    const int64_t images = inputs.images, tiles = tile.tiles(inputs.width);
    const bool kept =
        inputs.rule.loss.positives_twice || inputs.targets.keeps_losses(inputs.rule.loss);
    T* row_loss = kept ? take(images * inputs.width, T{}) : nullptr;
    ImageSums* tile_sums = take(images * tiles, ImageSums{});
    unsigned* arrived = take(1, unsigned{});
    const int64_t numbers = images * inputs.width * inputs.rule.label.num_classes;
    keys = {inputs, outputs.keys, row_loss, tile_sums, arrived, {zeros, numbers, images * tiles}};
    select = {outputs, row_loss,     tile_sums, inputs.targets, inputs.rule,
              images,  inputs.width, tiles,     arrived,        take(images, ImageSums{})};
  }
};

template <typename S, typename T>
inline cudaError_t launch_keys(const MultiBoxArgs<S, T>& args, const TilePlan& plan,
                               cudaStream_t stream) {
  const int64_t blocks = args.images * plan.tiles(args.width);
  const auto kernel = is_general(args) ? keys_kernel<S, T, true> : keys_kernel<S, T, false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kTileBlock), plan.bytes, stream,
                args, plan);
}

template <typename T>
inline cudaError_t launch_select(const SelectArgs<T>& args, cudaStream_t stream) {
  const int64_t blocks = args.images > 0 ? args.images : 1;  // a batch of no images has losses too
  return launch_rows<T>(args.width, blocks, args, stream,
                        [](auto held) { return select_kernel<T, decltype(held)::value>; });
}

template <typename S, typename T>
inline cudaError_t launch_loss(const LossPlan<S, T>& plan, cudaStream_t stream) {
  const cudaError_t error = launch_keys(plan.keys, plan.tile, stream);
  return error == cudaSuccess ? launch_select(plan.select, stream) : error;
}

}  // namespace ssd_cuda
