// Backward of the focal loss: a chunk of the logits a warp, number by number, each rounded once; then a thread a row of d_loc.
// Reads B P (C |S| + 4) (softmax: 12 more a row) and 8 B at each localized row, writes B P (C + 4) |S|.
#pragma once

#include "chunk_walk.cuh"

namespace ssd_cuda {

template <typename S, typename T>
struct FocalBackwardArgs : FocalInputs<S, T>, FocalSaved<T> {
  RowsView<S> d_loc;  // [B, P, 4]
  S* d_conf;          // [B, P C], in the order of memory of conf
};

// factor * d(loss) / d(logit) of the sigmoid form.
template <typename T>
__device__ __forceinline__ T sigmoid_slope(const FocalTerm<T>& term, T x, int64_t column,
                                           int32_t own, T factor) {
  if (own < kNoColumn) return own == kIgnoredColumn ? T(0) : T(NAN);
  const bool label = own == column;
  const SigmoidFocal<ScalarOps, T, T> focal(term, label ? x : -x);
  const T slope = mul_rn(focal.slope(term, term.alpha(label)), factor);
  return label ? -slope : slope;
}

template <typename S, typename T>
__global__ void __launch_bounds__(kFocalBlock) focal_slope_kernel(FocalBackwardArgs<S, T> args) {
  after_previous_kernel();
  const int64_t chunks = args.chunks();
  const int64_t warp = blockIdx.x * static_cast<int64_t>(kFocalBlock / 32) + threadIdx.x / 32;
  if (warp >= args.images * chunks) return;
  const int64_t image = warp / chunks, rows = args.images * args.width;
  const T scale = args.scales[image], factor = mul_rn(*args.grad_conf, scale);
  S* to = args.d_conf + image * args.size();
  each_number(args, image, warp % chunks, [&](int64_t i, int64_t p, int64_t column, T x) {
    const int64_t place = image * args.width + p;
    const int32_t own = args.columns[place];
    T value = 0;
    if (scale == T(0)) {
    } else if (args.rule.softmax) {
      const T row_factor = mul_rn(args.stats[2 * rows + place], factor);
      const T share = mul_rn(exp_negative(sub_rn(x, args.stats[place])), args.stats[rows + place]);
      if (row_factor != T(0)) {
        value = mul_rn(cross_entropy_gradient(share, own == column), row_factor);
      }
    } else {
      value = sigmoid_slope(args.rule.term, x, column, own, factor);
    }
    to[i] = static_cast<S>(value);
  });
}

template <typename S, typename T>
__global__ void __launch_bounds__(kFocalBlock) focal_loc_kernel(FocalBackwardArgs<S, T> args) {
  after_previous_kernel();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kFocalBlock) + threadIdx.x;
  if (i >= args.images * args.width) return;
  const int64_t image = i / args.width, p = i % args.width;
  const T scale = args.scales[image];
  if (scale != T(0) && is_localized(args.targets.row(image, p, args.rule.label).kind)) {
    write_loc<S>(args, image, p, scale);
  } else {
    clear_loc<S>(args, image, p);
  }
}

template <typename S, typename T>
inline cudaError_t launch_focal_backward(const FocalBackwardArgs<S, T>& args, cudaStream_t stream) {
  const auto blocks = [](int64_t work, int64_t each) {
    return dim3(static_cast<unsigned>(ceil_div(work, each)));
  };
  const cudaError_t error =
      launch(focal_slope_kernel<S, T>, blocks(args.images * args.chunks(), kFocalBlock / 32),
             dim3(kFocalBlock), 0, stream, args);
  if (error != cudaSuccess) return error;
  return launch(focal_loc_kernel<S, T>, blocks(args.images * args.width, kFocalBlock),
                dim3(kFocalBlock), 0, stream, args);
}

}  // namespace ssd_cuda
