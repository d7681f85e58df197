// The boxes kernels for Python. The living template of a binding: arrays in, the real launcher, arrays out.
#include "boxes/boxes_rule.h"
#include "boxes/cuda/boxes.cuh"
#include "emulator/binding.h"
#include "emulator/options.h"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes1: [N, 4], boxes2: [M, 4] -> [N, M]
template <typename T>
Array<T> iou(Array<T> boxes1, Array<T> boxes2, const IouSettings& settings) {
  Array<T> output({boxes1.shape(0), boxes2.shape(0)});
  emulator::check(launch_iou<T>(boxes1, boxes2, boxes1.shape(0), boxes2.shape(0), T(settings.eps),
                                output, nullptr));
  return output;
}

// input, grad: [rows, 4], priors: [P, 4], variances: [P, 4] or None -> [rows, 4]
template <typename T, CoderOp kOp>
Array<T> coder(Array<T> input, std::optional<Array<T>> grad, Array<T> priors,
               std::optional<Array<T>> variances, const DecodeSettings& settings) {
  Array<T> output({input.shape(0), 4});
  const CoderArgs<T> args{.priors = priors,
                          .variances = emulator::pointer(variances),
                          .variance = vec4<T>(settings.variance),
                          .rows = input.shape(0),
                          .prior_rows = priors.shape(0),
                          .format = box_format(settings.xyxy),
                          .clamp = log_clamp<T>(settings)};
  emulator::check(launch_coder<T, kOp>(args, input, emulator::pointer(grad), output, nullptr));
  return output;
}

// One Python name per op; pybind11 chooses by dtype.
template <typename T>
void define(py::module_& m) {
  m.def("iou", &iou<T>);
  m.def("encode", &coder<T, CoderOp::kEncode>);
  m.def("decode", &coder<T, CoderOp::kDecode>);
  m.def("encode_backward", &coder<T, CoderOp::kEncodeBackward>);
  m.def("decode_backward", &coder<T, CoderOp::kDecodeBackward>);
}

}  // namespace

EMULATOR_MODULE(m) {
  define<float>(m);
  define<double>(m);
}
