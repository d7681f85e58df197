// Pairwise IoU, encode, decode and their backward.
//
//   iou      out[i, j] = |a_i & b_j| / |a_i | b_j|      reads 16 (N + M) B, writes 4 N M B (fp32)
//   encode   box -> loc relative to its prior            reads 32 B, writes 16 B a row, +16 B with variances
//   decode   loc -> box                                  the same
//   backward the same shape again, +16 B for the gradient
//
// One thread a row (a pair in iou); every load and store of a row is one 16-byte (fp32) transaction.
// All kernels are bound by memory; the rows are independent, so any order gives the same bits.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/math/box_math.h"

namespace ssd_cuda {

constexpr int kBoxesBlock = 256;

// What encode and decode share. Priors repeat every prior_rows rows: [P, 4] serves a [B, P, 4] input.
template <typename T>
struct CoderArgs {
  const T* priors;     // [prior_rows, 4]
  const T* variances;  // [prior_rows, 4] or null
  Vec4<T> variance;    // used where variances is null
  int64_t rows;
  int64_t prior_rows;
  BoxFormat format;
  LogClamp<T> clamp;
};

template <typename T>
__device__ __forceinline__ Vec4<T> load_row(const T* p, int64_t row) {
  return reinterpret_cast<const Vec4<T>*>(p)[row];
}
template <typename T>
__device__ __forceinline__ void store_row(T* p, int64_t row, Vec4<T> v) {
  reinterpret_cast<Vec4<T>*>(p)[row] = v;
}

enum class CoderOp { kEncode, kDecode, kEncodeBackward, kDecodeBackward };

// input: boxes for encode, loc for decode [rows, 4]; grad: [rows, 4], read by the backward ops only.
template <typename T, CoderOp kOp>
__global__ void __launch_bounds__(kBoxesBlock)
    coder_kernel(CoderArgs<T> args, const T* input, const T* grad, T* output) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= args.rows) return;
  const int64_t prior_row = row % args.prior_rows;
  const Vec4<T> center = prior_center(load_row(args.priors, prior_row), args.format);
  const Vec4<T> variance = args.variances ? load_row(args.variances, prior_row) : args.variance;
  const Vec4<T> value = load_row(input, row);
  Vec4<T> result;
  if constexpr (kOp == CoderOp::kEncode) result = encode_box(value, center, variance);
  if constexpr (kOp == CoderOp::kDecode) result = decode_box(value, center, variance, args.clamp);
  if constexpr (kOp == CoderOp::kEncodeBackward)
    result = encode_box_backward(load_row(grad, row), value, center, variance);
  if constexpr (kOp == CoderOp::kDecodeBackward)
    result = decode_box_backward(load_row(grad, row), value, center, variance, args.clamp);
  store_row(output, row, result);
}

// boxes1: [N, 4], boxes2: [M, 4], output: [N, M]; the grid is 1-D over N * M.
template <typename T>
__global__ void __launch_bounds__(kBoxesBlock)
    iou_kernel(const T* boxes1, const T* boxes2, int64_t n, int64_t m, T eps, T* output) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pair >= n * m) return;
  const Vec4<T> a = load_row(boxes1, pair / m), b = load_row(boxes2, pair % m);
  output[pair] = iou(a, box_area(a), b, box_area(b), eps);
}

template <typename T, CoderOp kOp>
inline cudaError_t launch_coder(const CoderArgs<T>& args, const T* input, const T* grad, T* output,
                                cudaStream_t stream) {
  const int64_t blocks = ceil_div<int64_t>(args.rows, kBoxesBlock);
  return launch(coder_kernel<T, kOp>, dim3(static_cast<unsigned>(blocks)), dim3(kBoxesBlock), 0,
                stream, args, input, grad, output);
}

template <typename T>
inline cudaError_t launch_iou(const T* boxes1, const T* boxes2, int64_t n, int64_t m, T eps,
                              T* output, cudaStream_t stream) {
  const int64_t blocks = ceil_div<int64_t>(n * m, kBoxesBlock);
  return launch(iou_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kBoxesBlock), 0, stream,
                boxes1, boxes2, n, m, eps, output);
}

}  // namespace ssd_cuda
