// The soft-NMS kernels for Python.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "soft_nms/cuda/soft_nms.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [N, 4], scores: [N], idxs: [N] or None -> keep [rows], scores [rows], count []
template <typename T>
py::tuple soft_nms(Array<T> boxes, Array<T> scores, std::optional<Array<int64_t>> idxs,
                   const SoftNmsSettings& settings) {
  const int64_t rows = settings.max_output;
  const emulator::Memory memory;
  SoftNmsArgs<T> args(boxes.shape(0), memory);
  args.rows = rows;
  args.rule = soft_rule_of<T>(settings);
  args.boxes = emulator::rows<Vec4<T>>(boxes);
  args.scores = scores;
  args.idxs = emulator::pointer(idxs);
  Array<int64_t> keep({rows}), count({1});
  Array<T> kept_scores({rows});
  emulator::check(launch_soft_nms(args, keep.data(), kept_scores.data(), count.data(), nullptr));
  return py::make_tuple(keep.numpy(), kept_scores.numpy(), count.numpy());
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("soft_nms", &soft_nms<float>);
  m.def("soft_nms", &soft_nms<double>);
}
