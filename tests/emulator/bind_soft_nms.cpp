// The kernels of soft-NMS, DIoU-NMS and matrix NMS for Python.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "soft_nms/cuda/matrix_nms.cuh"
#include "soft_nms/cuda/soft_nms.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename Args, typename T>
void fill(Args& args, const Array<T>& boxes, const Array<T>& scores,
          const std::optional<Array<int64_t>>& idxs) {
  args.boxes = emulator::rows<Vec4<T>>(boxes);
  args.scores = scores;
  args.idxs = emulator::pointer(idxs);
}

// boxes: [N, 4], scores: [N], idxs: [N] or None -> keep [rows], scores [rows], count []
template <typename T, typename Settings>
py::tuple run(Array<T> boxes, Array<T> scores, std::optional<Array<int64_t>> idxs,
              const Settings& settings) {
  const int64_t n = boxes.shape(0), rows = settings.max_output;
  const emulator::Memory memory;
  const auto rule = rule_of<T>(settings);
  Array<int64_t> keep({rows}), count({1});
  Array<T> kept({rows});
  if constexpr (std::is_same_v<Settings, MatrixNmsSettings>) {
    MatrixNmsArgs<T> args(n, memory);
    args.rule = rule;
    fill(args, boxes, scores, idxs);
    emulator::check(launch_matrix_nms(args, rows, keep.data(), kept.data(), count.data(), nullptr));
  } else {
    ChooseArgs<T, std::remove_const_t<decltype(rule)>> args(n, memory);
    args.rule = rule;
    args.rows = rows;
    fill(args, boxes, scores, idxs);
    emulator::check(launch_choose(args, keep.data(), kept.data(), count.data(), nullptr));
  }
  return py::make_tuple(keep.numpy(), kept.numpy(), count.numpy());
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("soft_nms", &run<float, SoftNmsSettings>);
  m.def("soft_nms", &run<double, SoftNmsSettings>);
  m.def("diou_nms", &run<float, DiouNmsSettings>);
  m.def("diou_nms", &run<double, DiouNmsSettings>);
  m.def("matrix_nms", &run<float, MatrixNmsSettings>);
  m.def("matrix_nms", &run<double, MatrixNmsSettings>);
}
