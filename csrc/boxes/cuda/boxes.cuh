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

#include "boxes/coder.h"
#include "common/cuda/launch.cuh"

namespace ssd_cuda {

constexpr int kBoxesBlock = 256;

// input: boxes for encode, loc for decode [rows]; grad: [rows], read by the backward ops only.
template <typename T, CoderOp kOp>
__global__ void __launch_bounds__(kBoxesBlock)
    coder_kernel(Coder<T> coder, int64_t rows, const Vec4<T>* input, const Vec4<T>* grad,
                 Vec4<T>* output) {
  after_previous_kernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const int64_t prior_row = row % coder.prior_rows;
  const Vec4<T> center = coder.center(prior_row), variance = coder.variance_of(prior_row);
  Vec4<T> upstream{};
  if constexpr (reads_grad(kOp)) upstream = grad[row];
  output[row] = code_box<kOp>(input[row], upstream, center, variance, coder.clamp);
}

// boxes1: [N], boxes2: [M], output: [N, M]; the grid is 1-D over N * M.
template <typename T>
__global__ void __launch_bounds__(kBoxesBlock)
    iou_kernel(const Vec4<T>* boxes1, const Vec4<T>* boxes2, int64_t n, int64_t m, T eps,
               T* output) {
  after_previous_kernel();
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pair >= n * m) return;
  const Vec4<T> a = boxes1[pair / m], b = boxes2[pair % m];
  output[pair] = iou(a, box_area(a), b, box_area(b), eps);
}

template <CoderOp kOp, typename T>
inline cudaError_t launch_coder(const Coder<T>& coder, int64_t rows, const Vec4<T>* input,
                                const Vec4<T>* grad, Vec4<T>* output, cudaStream_t stream) {
  const int64_t blocks = ceil_div<int64_t>(rows, kBoxesBlock);
  return launch(coder_kernel<T, kOp>, dim3(static_cast<unsigned>(blocks)), dim3(kBoxesBlock), 0,
                stream, coder, rows, input, grad, output);
}

template <typename T>
inline cudaError_t launch_iou(const Vec4<T>* boxes1, int64_t n, const Vec4<T>* boxes2, int64_t m,
                              T eps, T* output, cudaStream_t stream) {
  const int64_t blocks = ceil_div<int64_t>(n * m, kBoxesBlock);
  return launch(iou_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kBoxesBlock), 0, stream,
                boxes1, boxes2, n, m, eps, output);
}

}  // namespace ssd_cuda
