// The priors kernel for Python.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"
#include "priors/cuda/priors.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// The arguments are those of the op fill_priors -> [rows, 4]
template <typename R, typename Out>
Array<Out> fill(int64_t rows, const PriorSettings& settings) {
  Array<Out> output({rows, 4});
  emulator::check(launch_all_priors<R>(settings, rows, output.data(), nullptr));
  return output;
}

// The last of so many rows.
Array<float> wide_fill(int64_t rows, const PriorSettings& settings, int64_t last) {
  return emulator::end_of(fill<float, float>(rows, settings), 4 * last);
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("fill_double_f32", &fill<double, float>);
  m.def("fill_double_f64", &fill<double, double>);
  m.def("fill_single_f32", &fill<float, float>);
  m.def("fill_single_f64", &fill<float, double>);
  m.def("wide_fill", &wide_fill);
}
