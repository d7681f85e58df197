// The priors kernel for Python, with the loop over levels and chunks of boxes of its CUDA binding.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "priors/cuda/priors.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// The arguments are those of the op fill_priors -> [rows, 4]
template <typename R, typename Out>
Array<Out> fill(int64_t rows, const PriorSettings& settings) {
  Array<Out> output({rows, 4});
  const PriorStyle style = prior_style(settings);
  const auto& grid = settings.grid;
  const auto& divisors = settings.divisors;
  int64_t row = 0;
  const double* size = settings.sizes.data();
  for (std::size_t k = 0; k < grid.size() / 3; ++k) {
    const PriorLevel level{
        row, grid[3 * k], grid[3 * k + 1], grid[3 * k + 2], divisors[2 * k], divisors[2 * k + 1]};
    for (int64_t first = 0; first < level.boxes; first += kMaxCellBoxes) {
      CellBoxes boxes{};
      boxes.first = first;
      boxes.count = std::min<int64_t>(kMaxCellBoxes, level.boxes - first);
      for (int64_t i = 0; i < boxes.count; ++i) {
        boxes.width[i] = *size++;
        boxes.height[i] = *size++;
      }
      emulator::check(launch_priors<R, Out>(level, style, boxes, output, nullptr));
    }
    row += level.rows * level.columns * level.boxes;
  }
  return output;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("fill_double_f32", &fill<double, float>);
  m.def("fill_double_f64", &fill<double, double>);
  m.def("fill_single_f32", &fill<float, float>);
  m.def("fill_single_f64", &fill<float, double>);
}
