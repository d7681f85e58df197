// The boxes kernels for Python. The living template of a binding: arrays in, the real launcher, arrays out.
#include "boxes/cuda/boxes.cuh"
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"

namespace {

using emulator::Array;
using emulator::rows;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes1: [N, 4], boxes2: [M, 4] -> [N, M]
template <typename T>
Array<T> iou(Array<T> boxes1, Array<T> boxes2, const IouSettings& settings) {
  Array<T> output({boxes1.shape(0), boxes2.shape(0)});
  emulator::check(launch_iou<T>(rows<Vec4<T>>(boxes1), boxes1.shape(0), rows<Vec4<T>>(boxes2),
                                boxes2.shape(0), T(settings.eps), output, nullptr));
  return output;
}

// input, grad: [rows, 4], priors: [P, 4], variances: [P, 4] or None -> [rows, 4]
template <typename T, CoderOp kOp>
Array<T> coder(Array<T> input, std::optional<Array<T>> grad, Array<T> priors,
               std::optional<Array<T>> variances, const DecodeSettings& settings) {
  Array<T> output({input.shape(0), 4});
  const auto coder =
      Coder<T>::of(rows<Vec4<T>>(priors), rows<Vec4<T>>(variances), priors.shape(0), settings);
  emulator::check(launch_coder<kOp>(coder, input.shape(0), rows<const Vec4<T>>(input),
                                    rows<const Vec4<T>>(grad), rows<Vec4<T>>(output), nullptr));
  return output;
}

// The last IoUs of [N, M].
Array<float> wide_iou(Array<float> boxes1, Array<float> boxes2, int64_t last) {
  const int64_t n = boxes1.shape(0), m = boxes2.shape(0);
  Array<float> output({n * m}, "a large output");
  emulator::check(launch_iou(rows<const Vec4<float>>(boxes1), n, rows<const Vec4<float>>(boxes2), m,
                             0.0f, output.data(), nullptr));
  return emulator::end_of(output, last);
}

// loc: the last rows of [count, 4] -> the same rows, decoded.
Array<float> wide_decode(Array<float> loc, Array<float> priors, const DecodeSettings& settings,
                         int64_t count) {
  const Array<float> input = emulator::ending_in(loc, 4 * count);
  Array<float> output({4 * count}, "a large output");
  const auto coder =
      Coder<float>::of(rows<Vec4<float>>(priors), nullptr, priors.shape(0), settings);
  emulator::check(launch_coder<CoderOp::kDecode>(coder, count, rows<const Vec4<float>>(input), {},
                                                 rows<Vec4<float>>(output), nullptr));
  return emulator::end_of(output, static_cast<int64_t>(loc.size()));
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
  m.def("wide_iou", &wide_iou);
  m.def("wide_decode", &wide_decode);
}
