// The priors of one level on the CPU.
#pragma once

#include "common/cpu/parallel.h"
#include "priors/priors_rule.h"

namespace ssd_cuda {

constexpr int64_t kGrainCells = 1024;

// size: w, h of each box of a cell; output: all rows of all levels. R: the arithmetic.
template <typename R, typename Out>
void fill_level(const PriorLevel& level, const PriorStyle& style, const double* size,
                Vec4<Out>* output) {
  parallel_grains(level.rows * level.columns, kGrainCells, [&](int64_t begin, int64_t end) {
    for (int64_t cell = begin; cell < end; ++cell) {
      for (int64_t box = 0; box < level.boxes; ++box) {
        output[level.output_row(cell, box, style.box_major)] =
            make_prior<R, Out>(level, style, cell, size[2 * box], size[2 * box + 1]);
      }
    }
  });
}

}  // namespace ssd_cuda
