// The MultiBox loss with negatives mined over the whole batch, after keys_kernel: the sums of each image and from them k, the
// search of batch_select.cuh over all keys, then what counts in each image. Reads 4 B P more for each digit and the ties.
#pragma once

#include "mining/cuda/batch_select.cuh"
#include "select_loss.cuh"

namespace ssd_cuda {

// The sum of value(image) by one warp, on each of its lanes.
template <typename Value>
__device__ __forceinline__ int64_t batch_total(int64_t images, const Value& value) {
  return warp_reduce(lane_total<int64_t>(images, value), Add{});
}

// A block an image, at least one.
template <typename T>
__global__ void __launch_bounds__(kSelectBlock) batch_totals_kernel(SelectArgs<T> args) {
  after_previous_kernel();
  using Search = BatchSearch<Ordered<T>>;
  __shared__ TileTotals totals;
  __shared__ bool last;
  if (blockIdx.x < args.images) {
    const int64_t image = blockIdx.x;
    totals.add(args.tiles + image * args.tiles_per_image, args.tiles_per_image);
    __syncthreads();
    if (threadIdx.x < 32) {
      const ImageSums sums = totals.sums();
      if (threadIdx.x == 0) args.sums[image] = sums;
    }
  }
  if (!arrives_last(&args.search->arrived[Search::kDigits + 1], last) || threadIdx.x >= 32) return;
  const int64_t positives =
      batch_total(args.images, [&](int64_t image) { return args.sums[image].positives; });
  const int64_t candidates =
      batch_total(args.images, [&](int64_t image) { return args.sums[image].candidates; });
  if (threadIdx.x != 0) return;
  const int64_t rows = args.images * args.width;
  args.search->start(num_hard_negatives(args.rule.mining, positives, candidates, rows), rows);
}

// A block an image, at least one.
template <typename T>
__global__ void __launch_bounds__(kSelectBlock) batch_sums_kernel(SelectArgs<T> args) {
  after_previous_kernel();
  using U = Ordered<T>;
  __shared__ LossShared<T> shared;
  take_ticket(args, shared);
  if (blockIdx.x < args.images) {
    const int64_t image = blockIdx.x;
    const MadeKeys<U> load(args.keys + image * args.width);
    const RowKeys<kReload, MadeKeys<U>, U> keys(load, args.width);
    shared.tiles.set(args.sums[image]);
    __syncthreads();
    add_selected(args, image, keys, image_cut(args.search->cut, image, args.width), shared);
  } else {
    __syncthreads();
  }
  finish_if_last(args, shared);
}

template <typename T>
inline cudaError_t launch_batch_clear(const SelectArgs<T>& args, cudaStream_t stream) {
  return launch(batch_clear_kernel<Ordered<T>>, dim3(1), dim3(kSelectBlock), 0, stream,
                args.search);
}

template <typename T>
inline cudaError_t launch_batch_select(const SelectArgs<T>& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.images > 0 ? args.images : 1));
  cudaError_t error = launch(batch_totals_kernel<T>, grid, dim3(kSelectBlock), 0, stream, args);
  if (error == cudaSuccess) {
    error = launch_batch_search<Ordered<T>>(args.keys, args.images * args.width, args.ties,
                                            args.search, stream);
  }
  if (error != cudaSuccess) return error;
  return launch(batch_sums_kernel<T>, grid, dim3(kSelectBlock), 0, stream, args);
}

}  // namespace ssd_cuda
