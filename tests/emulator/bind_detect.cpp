// The detect kernels for Python: the arguments of the op, contiguous arrays.
#include "detect/cuda/detect.cuh"
#include "emulator/binding.h"
#include "emulator/options.h"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// loc: [B, P, 4], conf: [B, P, C] ([B, 4, P], [B, C, P] when channels_first), priors: [P, 4] or [B, P, 4],
// clip_sizes: [B, 2] or None
template <typename T, typename S>
std::tuple<Array<T>, Array<T>, Array<int64_t>, Array<int64_t>, Array<int64_t>> detect(
    Array<S> loc, Array<S> conf, Array<T> priors, std::optional<Array<T>> clip_sizes,
    const DetectSettings& settings) {
  const bool channels_first = settings.channels_first;
  const int64_t rows = settings.rows;
  const int64_t images = conf.shape(0), num_priors = conf.shape(channels_first ? 2 : 1);
  const int64_t num_classes = conf.shape(channels_first ? 1 : 2);
  const auto view = [&](S* data, int64_t columns) {
    return RowView<S>{data, num_priors * columns, channels_first ? 1 : columns,
                      channels_first ? num_priors : 1};
  };
  const DetectOptions<T> options = detect_options<T>(settings, num_classes);
  const DetectInputs<T, S> inputs{
      .loc = view(loc, 4),
      .conf = view(conf, num_classes),
      .priors = reinterpret_cast<const Vec4<T>*>(priors.data()),
      .prior_image_rows =
          static_cast<int64_t>(priors.size()) == 4 * images * num_priors ? num_priors : 0,
      .clip_sizes = clip_sizes ? clip_sizes->data() : nullptr,
      .images = images,
      .num_priors = num_priors,
      .num_classes = num_classes};
  Array<T> boxes({images, rows, 4}), kept_scores({images, rows});
  Array<int64_t> labels({images, rows}), prior_indices({images, rows}), counts({images});
  const DetectOutputs<T> outputs{.boxes = reinterpret_cast<Vec4<T>*>(boxes.data()),
                                 .scores = kept_scores,
                                 .labels = labels,
                                 .prior_indices = prior_indices,
                                 .counts = counts};
  const auto bytes = detect_workspace_bytes(options, images, num_priors);
  Array<Vec4<double>> workspace({static_cast<py::ssize_t>((bytes + 31) / 32)}, "the workspace");
  emulator::check(launch_detect(options, inputs, outputs, workspace.data(), nullptr));
  return {boxes, kept_scores, labels, prior_indices, counts};
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("detect", &detect<float, float>);
  m.def("detect", &detect<double, double>);
  m.def("detect", &detect<float, __half>);
  m.def("detect", &detect<float, __nv_bfloat16>);
}
