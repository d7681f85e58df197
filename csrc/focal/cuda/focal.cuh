// The focal loss.
//
//   1 rows      a thread a prior: its true column, its kind, its localisation term
//   2 sigmoid   a warp a chunk of 1024 logits, read in the order of memory -> one sum a chunk; or
//     softmax   a tile of rows in shared memory, a thread a row, as keys_kernel of the MultiBox loss -> one loss a row, and
//               what the backward needs of it
//   3 total     a block an image adds its parts; the block that arrives last makes the normaliser and both losses
//   4 backward  (focal_backward.cuh)
//
// Traffic for [B, P, C] of S: forward reads B P C |S| and writes 17 B a row (softmax: 29 B); the backward reads B P C |S|
// once more and writes B P C |S|. Leaving the gradient in the forward would save one of these three passes where the factor of
// the loss is 1, which only a wait can tell here; the CPU does it.
// Sums have the order that focal_rule.h states: the CPU's bits. Arrivals are counted in a number that 1 sets to 0.
#pragma once

#include "focal_backward.cuh"
#include "mining/cuda/select.cuh"
#include "multibox/cuda/finish.cuh"
#include "multibox/cuda/row_loss.cuh"

namespace ssd_cuda {

template <typename S, typename T>
struct FocalArgs : FocalInputs<S, T> {
  int32_t* columns;      // [B, P]
  T* stats;              // [3, B, P] of the softmax form
  unsigned char* kinds;  // [B, P]
  double* terms;         // [B, P] localisation
  double* parts;         // [B, focal_parts]
  unsigned* tickets;     // [], set to 0
};

template <typename T>
struct TotalArgs : FocalOutputs<T> {
  const unsigned char* kinds;
  const double *terms, *parts;
  FocalRule<T> rule;
  int64_t images, width, count;  // parts an image
  unsigned* tickets;
  ImageSums* sums;  // [B]
};

template <typename S, typename T>
__global__ void __launch_bounds__(kFocalBlock) focal_rows_kernel(FocalArgs<S, T> args) {
  after_previous_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kFocalBlock) + threadIdx.x;
  if (i == 0) *args.tickets = 0;
  if (i >= args.images * args.width) return;
  const int64_t image = i / args.width, p = i % args.width;
  const Row row = args.targets.row(image, p, args.rule.label);
  args.columns[i] = true_column(row, args.rule);
  args.kinds[i] = static_cast<unsigned char>(row.kind);
  double term = 0;
  if (is_localized(row.kind)) {
    term = localization_term(loc_difference(args.loc, args.targets, image, p),
                             static_cast<T>(args.rule.loss.beta));
  }
  args.terms[i] = term;
}

template <typename S, typename T>
__global__ void __launch_bounds__(kFocalBlock) focal_sigmoid_kernel(FocalArgs<S, T> args) {
  after_previous_kernel();
  const int64_t chunks = args.chunks();
  const int64_t warp = blockIdx.x * static_cast<int64_t>(kFocalBlock / 32) + threadIdx.x / 32;
  if (warp >= args.images * chunks) return;
  const int64_t image = warp / chunks;
  const FocalTerm<T>& term = args.rule.term;
  T sum = 0;
  each_number(args, image, warp % chunks, [&](int64_t, int64_t p, int64_t column, T x) {
    const int32_t own = args.columns[image * args.width + p];
    const bool label = own == column;
    T loss = own == kIgnoredColumn ? T(0) : T(NAN);
    if (own >= kNoColumn) {
      loss = SigmoidFocal<ScalarOps, T, T>(term, label ? x : -x).value(term.alpha(label));
    }
    sum = add_rn(sum, loss);
  });
  const double total = sum_of_lanes(static_cast<double>(sum));
  if (threadIdx.x % 32 == 0) args.parts[warp] = total;
}

template <typename S, typename T>
__global__ void __launch_bounds__(kTileBlock)
    focal_softmax_kernel(FocalArgs<S, T> args, TilePlan plan) {
  SSD_DYNAMIC_SHARED(S, tile);
  after_previous_kernel();
  const int64_t tiles = plan.tiles(args.width);
  const int64_t image = blockIdx.x / tiles, begin = blockIdx.x % tiles * plan.rows;
  const int64_t left = args.width - begin;
  const int rows = static_cast<int>(left < plan.rows ? left : plan.rows);
  const int classes = static_cast<int>(args.rule.label.num_classes);
  const int t = static_cast<int>(threadIdx.x);
  const S* staged = nullptr;
  if (plan.pitch > 0) {
    staged = stage_tile(args.conf, image, begin, rows, classes, plan.pitch, tile);
    wait_copies();
    __syncthreads();
  }
  if (t >= rows) return;
  const int64_t place = image * args.width + begin + t, all = args.images * args.width;
  const int32_t column = args.columns[place];
  const bool positive = is_positive_column(column, args.rule);
  const bool here = plan.pitch > 0;
  const S* row = here ? staged + t * plan.pitch : args.conf.at(image, begin + t);
  const int64_t stride = here ? 1 : args.conf.class_stride;
  const RowSum<T> sum = sum_of_row<T>(row, stride, classes);
  const T log_sum = log_normal(sum.sum);
  T cross = T(NAN);
  if (column >= 0) {
    cross = cross_entropy(log_sum, static_cast<T>(row[column * stride]), sum.largest);
  }
  const SoftmaxFocal<ScalarOps, T> focal(args.rule.term, args.rule.term.alpha(positive), cross);
  const bool ignored = column == kIgnoredColumn;
  args.parts[place] = ignored ? 0.0 : static_cast<double>(focal.value);
  args.stats[place] = sum.largest;
  args.stats[all + place] = div_rn(T(1), sum.sum);
  args.stats[2 * all + place] = ignored ? T(0) : focal.factor;
}

// The sum of values[i] over i < count by the block, on every thread.
__device__ inline double block_total(const double* values, int64_t count, double* scratch) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSelectBlock) sum += values[i];
  return block_reduce(sum, scratch, [](double x, double y) { return x + y; });
}

template <typename T>
__global__ void __launch_bounds__(kSelectBlock, 1) focal_total_kernel(TotalArgs<T> args) {
  __shared__ double scratch[kSelectWarps];
  __shared__ int counts[kSelectWarps];
  __shared__ bool last;
  after_previous_kernel();
  const int64_t image = blockIdx.x;
  if (image < args.images) {
    ImageSums sums{};
    int localized = 0, positives = 0, candidates = 0;
    for (int64_t p = threadIdx.x; p < args.width; p += kSelectBlock) {
      const auto kind = static_cast<RowKind>(args.kinds[image * args.width + p]);
      localized += is_localized(kind);
      positives += kind == RowKind::kPositive;
      candidates += is_candidate(kind);
    }
    const auto add = [](int x, int y) { return x + y; };
    sums.localized = block_reduce(localized, counts, add);
    sums.positives = block_reduce(positives, counts, add);
    sums.negatives = block_reduce(candidates, counts, add);
    if (sums.localized > 0) {
      sums.loc = block_total(args.terms + image * args.width, args.width, scratch);
    }
    sums.conf = block_total(args.parts + image * args.count, args.count, scratch);
    if (threadIdx.x == 0) args.sums[image] = sums;
  }
  if (threadIdx.x == 0) {
    __threadfence();  // what this image has, before the arrival
    last = gridDim.x == 1 || atomicAdd(args.tickets, 1u) == gridDim.x - 1;
    __threadfence();  // what the others have, after theirs
  }
  __syncthreads();
  if (last && threadIdx.x < 32) {
    finish_batch(args, [&](int64_t image) { return args.sums[image]; });
  }
}

// The forward: its three launches, with the scratch memory that they hand on.
template <typename S, typename T>
struct FocalPlan {
  TilePlan tile;
  FocalArgs<S, T> rows;
  TotalArgs<T> total;

  // take: see common/cuda/workspace.h
  template <typename Take>
  FocalPlan(const FocalInputs<S, T>& inputs, const FocalOutputs<T>& outputs, const Take& take)
      : tile(plan_tile<S>(inputs.rule.label.num_classes)) {
    const int64_t priors = inputs.images * inputs.width;
    const int64_t count = inputs.rule.softmax ? inputs.width : inputs.chunks();
    unsigned char* kinds = take(priors, static_cast<unsigned char>(0));
    double* terms = take(priors, 0.0);
    double* parts = take(inputs.images * count, 0.0);
    unsigned* tickets = take(1, unsigned{});
    rows = {inputs, outputs.columns, outputs.stats, kinds, terms, parts, tickets};
    total = {outputs,       kinds,        terms, parts,   inputs.rule,
             inputs.images, inputs.width, count, tickets, take(inputs.images, ImageSums{})};
  }
};

template <typename S, typename T>
inline cudaError_t launch_focal(const FocalPlan<S, T>& plan, cudaStream_t stream) {
  const FocalArgs<S, T>& args = plan.rows;
  const auto blocks = [](int64_t work, int64_t each) {
    return dim3(static_cast<unsigned>(ceil_div(work, each)));
  };
  const int64_t priors = args.images * args.width;
  cudaError_t error = launch(focal_rows_kernel<S, T>, blocks(priors > 0 ? priors : 1, kFocalBlock),
                             dim3(kFocalBlock), 0, stream, args);
  if (error != cudaSuccess) return error;
  if (args.rule.softmax) {
    error = launch(focal_softmax_kernel<S, T>,
                   dim3(static_cast<unsigned>(args.images * plan.tile.tiles(args.width))),
                   dim3(kTileBlock), plan.tile.bytes, stream, args, plan.tile);
  } else {
    error =
        launch(focal_sigmoid_kernel<S, T>, blocks(args.images * args.chunks(), kFocalBlock / 32),
               dim3(kFocalBlock), 0, stream, args);
  }
  if (error != cudaSuccess) return error;
  const int64_t images = args.images > 0 ? args.images : 1;  // a batch of no images has losses too
  return launch(focal_total_kernel<T>, dim3(static_cast<unsigned>(images)), dim3(kSelectBlock), 0,
                stream, plan.total);
}

}  // namespace ssd_cuda
