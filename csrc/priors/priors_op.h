// The arguments of the op as the kernels want them: levels in order, with the sizes of a cell's boxes.
#pragma once

#include "common/torch/boxing.h"
#include "priors_rule.h"

namespace ssd_cuda {

// fn(level, sizes of the level) once per level.
template <typename Fn>
inline void for_each_level(const PriorSettings& settings, int64_t output_rows, const Fn& fn) {
  const auto& [grid, divisors, sizes] = std::tie(settings.grid, settings.divisors, settings.sizes);
  int64_t row = 0;
  std::size_t box = 0;
  for (std::size_t k = 0; k < grid.size() / 3; ++k) {
    const PriorLevel level{.first_row = row,
                           .rows = grid[3 * k],
                           .columns = grid[3 * k + 1],
                           .boxes = grid[3 * k + 2],
                           .divisor_x = divisors.at(2 * k),
                           .divisor_y = divisors.at(2 * k + 1)};
    row += level.rows * level.columns * level.boxes;
    STD_TORCH_CHECK(level.rows >= 0 && level.columns >= 0 && level.boxes >= 0 &&
                        row <= output_rows && 2 * (box + level.boxes) <= sizes.size(),
                    "fill_priors: the levels do not fit the output or the sizes");
    fn(level, sizes.data() + 2 * box);
    box += static_cast<std::size_t>(level.boxes);
  }
  STD_TORCH_CHECK(row == output_rows, "fill_priors: the output must have ", row, " rows, got ",
                  output_rows);
}

// fn(R{}, Out{}): arithmetic and output type.
template <typename Fn>
inline void dispatch_priors(const Tensor& output, bool single, const Fn& fn) {
  STD_TORCH_CHECK(output.is_contiguous(), "fill_priors: the output must be contiguous");
  dispatch_real(output.scalar_type(), "fill_priors", [&](auto zero) {
    using Out = decltype(zero);
    if (single) return fn(float{}, Out{});
    fn(double{}, Out{});
  });
}

}  // namespace ssd_cuda
