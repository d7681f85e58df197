// The fused MultiBox loss.
//
//   1 keys      a tile of rows: per row log-sum-exp -> cross entropy -> 4-byte key; partial sums per tile; where a
//               gradient will be wanted, a part of its zeros. Where one op matches as well, in clusters, it begins beside
//               the matching: the codes are not asked for before the sums of the rows are there
//   2 select    (select_loss.cuh) a block an image: k from its positives, radix selection, sums over the selected rows;
//               the block that begins last waits for the others' and makes the normaliser and both losses, added in the
//               order of the images. Of a batch that is ranked as a whole see batch_loss.cuh
//   3 backward  (backward.cuh) the few rows that count are read again and written over the zeros
//
// 1 stages the tile's logits in shared memory with coalesced copies (rows lie one after the other in [B, P, C], where
// they go past the registers by cp.async, so that a whole tile is on its way at once; classes in [B, C, P]), then each
// thread owns a row; the row pitch keeps banks apart. The zeros depend on nothing: their stores go between the
// exponentials, when memory is idle. Bytes for [B, P, C] of S: forward reads B P (C |S| + 4) and writes 4 B P (+ 4 B P read by 2)
// and B P C |S| of zeros; backward is a few percent of that. No other [B, P, C] temporary, no host value.
// Sums are double, in trees and orders that no scheduling changes. Tickets and the sums that blocks hand on are cleared by 1:
// nothing outlives a call, so calls on several streams and replays of a graph do not meet.
#pragma once

#include "backward.cuh"
#include "batch_loss.cuh"
#include "row_loss.cuh"
#include "select_loss.cuh"

namespace ssd_cuda {

template <typename S, typename T>
struct MultiBoxArgs : LossInputs<S, T> {
  Ordered<T>* keys;  // [B, P]
  T* row_loss;  // [B, P], or null: written at positives, which may count twice; see keeps_losses
  ImageSums* tiles;  // [B, tiles an image]
  unsigned tiles_per_image;
  unsigned* arrived;   // [], set to 0
  ImageShare* shares;  // [B], cleared
  ZeroedRows<S> zeros;
};

// The sum over a block of kTileBlock threads, on thread 0.
__device__ inline double tile_sum(double value, double* scratch) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kTileBlock / 32; ++w) value += scratch[w];
  return value;
}

// The three counts of a tile's rows in one number, ten bits each, so that one barrier serves them all.
constexpr int kCountBits = 10;
static_assert(kTileBlock < 1 << kCountBits && 3 * kCountBits <= 32);

__device__ __forceinline__ void add_counts(bool inside, RowKind kind, unsigned* counts) {
  const auto lanes = [&](bool counted) -> unsigned {
    return __popc(__ballot_sync(kFullWarp, inside && counted));
  };
  const unsigned own = lanes(kind == RowKind::kPositive) | lanes(is_localized(kind)) << kCountBits |
                       lanes(is_candidate(kind)) << 2 * kCountBits;
  if (threadIdx.x % 32 == 0) atomicAdd(counts, own);
}
__device__ __forceinline__ void set_counts(unsigned counts, ImageSums& sums) {
  constexpr unsigned kOne = (1u << kCountBits) - 1;
  sums.positives = counts & kOne;
  sums.localized = counts >> kCountBits & kOne;
  sums.candidates = counts >> 2 * kCountBits;
}

// What a tile's rows are known to be: when its block begins, or not until the matching beside which it runs has ended.
enum class Codes { kKnown, kMatching };

// kGeneral: with the terms of the classes and losses of boxes. A kernel of its own, so that the plain one keeps its registers.
template <typename S, typename T, bool kGeneral, Codes kCodes>
__device__ __forceinline__ void keys_of_tile(const MultiBoxArgs<S, T>& args, const TilePlan& plan) {
  constexpr bool kWaits = kCodes == Codes::kMatching;
  SSD_DYNAMIC_SHARED(S, tile);
  __shared__ double scratch[kTileBlock / 32];
  __shared__ unsigned counts;  // see add_counts
  const unsigned from_image = blockIdx.x / args.tiles_per_image;
  const int64_t image = from_image;
  const int64_t begin = int64_t{blockIdx.x - from_image * args.tiles_per_image} * plan.rows;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < plan.rows ? left : plan.rows);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const int t = static_cast<int>(threadIdx.x);
  const bool inside = t < rows;
  const int64_t p = begin + t, place = image * args.width + p;
  // Asked for first: behind the copies and the zeros it would be the last to come.
  Mark mark{};
  if (!kWaits && inside) mark = args.targets.mark(image, p);
  if (t == 0) counts = 0;
  const S* staged = nullptr;
  const bool tiled = kWaits || plan.pitch > 0;
  if constexpr (kWaits) {
    staged = copy_run<true>(args.conf.at(image, begin), rows * classes, tile);
  } else if (tiled) {
    staged = stage_tile(args.conf, image, begin, rows, classes, plan.pitch, tile);
  }
  ZeroPart zeros = args.zeros.part();
  const bool while_adding = !kGeneral && tiled;
  if (!while_adding) zeros.rest();
  Row row{RowKind::kIgnored, 0};
  if (!kWaits && inside) row = args.targets.row(image, mark, args.rule.label);
  wait_copies();
  __syncthreads();
  RowSum<T> sum{};
  if (while_adding && inside) {
    sum = staged_sum<T>(staged + t * plan.pitch, classes, [&] { zeros.step(); });
  }
  zeros.rest();
  if constexpr (kWaits) {
    after_previous_kernel();
    if (inside) row = args.targets.row(image, args.targets.mark(image, p), args.rule.label);
  }
  double loc = 0, conf = 0;
  if (inside) {
    T loss, rank;
    if constexpr (kGeneral) {
      const auto& terms = args.targets.terms;
      const RowLoss<T> both =
          tiled ? row_loss_of_terms<T>(staged + t * plan.pitch, 1, classes, row.label, terms)
                : row_loss_of_terms<T>(args.conf.at(image, p), args.conf.class_stride, classes,
                                       row.label, terms);
      const bool kept = args.targets.keeps_losses(args.rule.loss);
      loss = both.loss;
      rank = kept ? both.plain : both.loss;
      if (kept) args.row_loss[place] = loss;
    } else {
      loss = tiled ? cross_entropy_of(sum, staged + t * plan.pitch, 1, row.label)
                   : row_cross_entropy<T>(args.conf.at(image, p), args.conf.class_stride, classes,
                                          row.label);
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
  add_counts(inside, row.kind, &counts);
  __syncthreads();
  ImageSums sums{};
  set_counts(counts, sums);
  if (sums.localized > 0) {  // the same on every thread; most tiles have none
    sums.loc = tile_sum(loc, scratch);
    sums.conf = tile_sum(conf, scratch);
  }
  if (t == 0) args.tiles[blockIdx.x] = sums;
  if (t == 0 && blockIdx.x == 0) *args.arrived = 0;
  if (t == 0 && begin == 0) args.shares[image].clear();
}

template <typename T>
constexpr int kTileBlocks = (sizeof(T) == 8 ? 640 : 1024) / kTileBlock;  // of a multiprocessor

template <typename S, typename T, bool kGeneral>
__global__ void __launch_bounds__(kTileBlock, kTileBlocks<T>)
    keys_kernel(MultiBoxArgs<S, T> args, TilePlan plan) {
  after_previous_kernel();
  keys_of_tile<S, T, kGeneral, Codes::kKnown>(args, plan);
}

// Beside cluster_match_kernel, which leaves most of the memory's rate and, in clusters of 4, half of each multiprocessor: all
// that takes no codes comes before the wait, of as many tiles as find room. Reads the logits and writes the zeros before that
// kernel has ended, so nothing else may be launched between the two; of rows that are copied from L2 alone (is_run), since
// an L1 may hold what was there before.
template <typename S, typename T>
__global__ void __launch_bounds__(kTileBlock, kTileBlocks<T>)
    keys_beside_match_kernel(MultiBoxArgs<S, T> args, TilePlan plan) {
  keys_of_tile<S, T, false, Codes::kMatching>(args, plan);
}

// The forward: its launches, with the scratch memory that one hands to the other.
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
    ImageShare* shares = take(images, ImageShare{});
    const int64_t numbers = images * inputs.width * inputs.rule.label.num_classes;
    keys = {inputs,
            outputs.keys,
            row_loss,
            tile_sums,
            static_cast<unsigned>(tiles),
            arrived,
            shares,
            {zeros, numbers, images * tiles}};
    select = {outputs, row_loss, tile_sums, inputs.targets, inputs.rule, images, inputs.width,
              tiles,   arrived,  shares,    nullptr,        nullptr,     nullptr};
    if (inputs.rule.mining.scope != MiningScope::kBatch) return;
    select.sums = take(images, ImageSums{});
    select.search = take(1, BatchSearch<Ordered<T>>{});
    select.ties = take(batch_ties(images * inputs.width), unsigned{});
  }
};

// beside: right behind launch_cluster_match() of their codes.
template <typename S, typename T>
inline cudaError_t launch_keys(const MultiBoxArgs<S, T>& args, const TilePlan& plan, bool beside,
                               cudaStream_t stream) {
  const int64_t blocks = args.images * plan.tiles(args.width);
  if constexpr (sizeof(T) == 4) {  // no clusters match in double
    const bool run = is_run(args.conf, args.rule.label.num_classes, plan.pitch);
    if (beside && run && !is_general(args)) {
      return launch<Start::kBeside>(keys_beside_match_kernel<S, T>,
                                    dim3(static_cast<unsigned>(blocks)), dim3(kTileBlock),
                                    plan.bytes, stream, args, plan);
    }
  }
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
inline cudaError_t launch_loss(const LossPlan<S, T>& plan, cudaStream_t stream,
                               bool beside_match = false) {
  const bool whole = plan.select.rule.mining.scope == MiningScope::kBatch;
  cudaError_t error = whole ? launch_batch_clear(plan.select, stream) : cudaSuccess;
  if (error == cudaSuccess) {
    error = launch_keys(plan.keys, plan.tile, beside_match && !whole, stream);
  }
  if (error != cudaSuccess) return error;
  return whole ? launch_batch_select(plan.select, stream) : launch_select(plan.select, stream);
}

}  // namespace ssd_cuda
