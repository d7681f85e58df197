// Prior generation: the rule is in priors_rule.h.
//
// One launch a level and at most kMaxCellBoxes boxes, whose sizes travel as kernel arguments: nothing is
// copied to the card and nothing waits for it. One thread a prior, neighbouring threads write neighbouring
// rows in both layouts. Reads nothing, writes 16 B a prior (fp32). The result is cached by the caller.
#pragma once

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "priors/priors_levels.h"

namespace ssd_cuda {

constexpr int kPriorsBlock = 256;
constexpr int kMaxCellBoxes = 32;

struct CellBoxes {
  int64_t first, count;  // these are boxes [first, first + count) of a cell
  double width[kMaxCellBoxes], height[kMaxCellBoxes];
};

// output: [P, 4]; the grid is 1-D over the level's cells times boxes.count.
template <typename R, typename Out>
__global__ void __launch_bounds__(kPriorsBlock)
    priors_kernel(const PriorLevel level, const PriorStyle style, const CellBoxes boxes,
                  Out* output) {
  after_previous_kernel();
  const int64_t cells = level.rows * level.columns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= cells * boxes.count) return;
  const int64_t cell = style.box_major ? i % cells : i / boxes.count;
  const int64_t box = style.box_major ? i / cells : i % boxes.count;
  const Vec4<Out> prior =
      make_prior<R, Out>(level, style, cell, boxes.width[box], boxes.height[box]);
  reinterpret_cast<Vec4<Out>*>(output)[level.output_row(cell, boxes.first + box, style.box_major)] =
      prior;
}

template <typename R, typename Out>
inline cudaError_t launch_priors(const PriorLevel& level, const PriorStyle& style,
                                 const CellBoxes& boxes, Out* output, cudaStream_t stream) {
  const int64_t blocks = ceil_div<int64_t>(level.rows * level.columns * boxes.count, kPriorsBlock);
  return launch(priors_kernel<R, Out>, dim3(static_cast<unsigned>(blocks)), dim3(kPriorsBlock), 0,
                stream, level, style, boxes, output);
}

// Boxes [first, first + count) of a cell, with count at most kMaxCellBoxes. size: w, h of each box of the level.
inline CellBoxes cell_boxes(const PriorLevel& level, const double* size, int64_t first) {
  CellBoxes boxes{.first = first, .count = std::min<int64_t>(kMaxCellBoxes, level.boxes - first)};
  for (int64_t i = 0; i < boxes.count; ++i) {
    boxes.width[i] = size[2 * (first + i)];
    boxes.height[i] = size[2 * (first + i) + 1];
  }
  return boxes;
}

// The whole op. output: [rows, 4]
template <typename R, typename Out>
inline cudaError_t launch_all_priors(const PriorSettings& settings, int64_t rows, Out* output,
                                     cudaStream_t stream) {
  const PriorStyle style = prior_style(settings);
  cudaError_t error = cudaSuccess;
  for_each_level(settings, rows, [&](const PriorLevel& level, const double* size) {
    for (int64_t first = 0; first < level.boxes && error == cudaSuccess; first += kMaxCellBoxes) {
      const CellBoxes boxes = cell_boxes(level, size, first);
      error = launch_priors<R>(level, style, boxes, output, stream);
    }
  });
  return error;
}

}  // namespace ssd_cuda
