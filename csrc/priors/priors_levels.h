// The settings of the op as the kernels want them: levels in order, with the sizes of a cell's boxes.
#pragma once

#include <tuple>

#include "common/check.h"
#include "priors_rule.h"

namespace ssd_cuda {

// fn(level, sizes of the level) once per level.
template <typename Fn>
inline void for_each_level(const PriorSettings& settings, int64_t output_rows, const Fn& fn) {
  const auto& [grid, divisors, sizes] = std::tie(settings.grid, settings.divisors, settings.sizes);
  const std::size_t levels = grid.size() / 3;
  SSD_CHECK(grid.size() == 3 * levels && divisors.size() == 2 * levels,
            "grid must hold 3 numbers a level and divisors 2, got ", grid.size(), " and ",
            divisors.size());
  int64_t row = 0, box = 0;
  const int64_t num_sizes = static_cast<int64_t>(sizes.size());
  for (std::size_t k = 0; k < levels; ++k) {
    const PriorLevel level{.first_row = row,
                           .rows = grid[3 * k],
                           .columns = grid[3 * k + 1],
                           .boxes = grid[3 * k + 2],
                           .divisor_x = divisors[2 * k],
                           .divisor_y = divisors[2 * k + 1]};
    int64_t cells = 0, count = 0;
    const bool fits = level.rows >= 0 && level.columns >= 0 && level.boxes >= 0 &&
                      !__builtin_mul_overflow(level.rows, level.columns, &cells) &&
                      !__builtin_mul_overflow(cells, level.boxes, &count) &&
                      count <= output_rows - row && level.boxes <= num_sizes / 2 - box;
    SSD_CHECK(fits, "grid must fit ", output_rows, " output rows and ", num_sizes,
              " sizes, got a level of ", level.rows, " x ", level.columns, " cells with ",
              level.boxes, " boxes after ", row, " rows");
    row += count;
    fn(level, sizes.data() + 2 * box);
    box += level.boxes;
  }
  SSD_CHECK(row == output_rows, "output must have ", row, " rows, got ", output_rows);
}

}  // namespace ssd_cuda
