// The detect kernels for Python: the arguments of the op, contiguous arrays.
#include "detect/cuda/detect.cuh"
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename T>
using Results = std::tuple<Array<T>, Array<T>, Array<int64_t>, Array<int64_t>, Array<int64_t>>;

template <typename T, typename S>
Results<T> run(const DetectInputs<T, S>& inputs, const DetectSettings& settings) {
  const int64_t images = inputs.images, rows = settings.rows;
  const auto rules = class_rules<T>(settings, inputs.num_classes);
  const DetectOptions<T> options = detect_options<T>(settings, inputs.num_classes, rules);
  Array<T> boxes({images, rows, 4}), kept_scores({images, rows});
  Array<int64_t> labels({images, rows}), prior_indices({images, rows}), counts({images});
  const DetectOutputs<T> outputs{.boxes = emulator::rows<Vec4<T>>(boxes),
                                 .scores = kept_scores,
                                 .labels = labels,
                                 .prior_indices = prior_indices,
                                 .counts = counts};
  const auto bytes = detect_workspace_bytes(options, images, inputs.num_priors);
  Array<unsigned char> workspace({static_cast<py::ssize_t>(bytes)}, "the workspace");
  emulator::check(launch_detect(options, inputs, outputs, workspace.data(), nullptr));
  return {boxes, kept_scores, labels, prior_indices, counts};
}

// loc: [B, P, 4], conf: [B, P, C] ([B, 4, P], [B, C, P] when channels_first), priors: [P, 4] or [B, P, 4],
// clip_sizes: [B, 2] or None
template <typename T, typename S>
Results<T> detect(Array<S> loc, Array<S> conf, Array<T> priors, std::optional<Array<T>> clip_sizes,
                  const DetectSettings& settings) {
  const bool channels_first = settings.channels_first;
  const int64_t images = conf.shape(0), num_priors = conf.shape(channels_first ? 2 : 1);
  const int64_t num_classes = conf.shape(channels_first ? 1 : 2);
  const auto view = [&](S* data, int64_t columns) {
    return RowView<S>{data, num_priors * columns, channels_first ? 1 : columns,
                      channels_first ? num_priors : 1};
  };
  const bool own_priors = static_cast<int64_t>(priors.size()) == 4 * images * num_priors;
  return run<T, S>({.loc = view(loc, 4),
                    .conf = view(conf, num_classes),
                    .priors = emulator::rows<Vec4<T>>(priors),
                    .prior_image_rows = own_priors ? num_priors : 0,
                    .clip_sizes = emulator::pointer(clip_sizes),
                    .images = images,
                    .num_priors = num_priors,
                    .num_classes = num_classes},
                   settings);
}

// The same with logits that begin `shift` elements behind the begin of a vector.
template <typename S>
Results<float> shifted_detect(Array<S> loc, Array<S> conf, Array<float> priors,
                              const DetectSettings& settings, std::size_t shift) {
  return detect<float, S>(loc, Array<S>(conf.numpy(), shift), priors, std::nullopt, settings);
}

// loc: [B, P, 4], conf: [B, P, C], whose rows, or columns where channels come first, lie `step` apart; priors: [P, 4], for
// each image once more, `step` rows apart.
Results<float> wide_detect(Array<float> loc, Array<float> conf, Array<float> priors,
                           const DetectSettings& settings, int64_t step) {
  const int64_t images = conf.shape(0), width = conf.shape(1), classes = conf.shape(2);
  const auto from = [&](int64_t columns) {
    return emulator::Spread<RowView<float>>::of(width, columns, step, settings.channels_first);
  };
  const Array<float> x = from(4).with(loc), y = from(classes).with(conf);
  Array<float> table({4 * (step * (images - 1) + width)}, "large priors");
  for (int64_t b = 0; b < images; ++b) {
    emulator::put(table, 4 * step * b, priors.data(), priors.size());
  }
  return run<float, float>({.loc = from(4).view(x),
                            .conf = from(classes).view(y),
                            .priors = emulator::rows<Vec4<float>>(table),
                            .prior_image_rows = step,
                            .clip_sizes = nullptr,
                            .images = images,
                            .num_priors = width,
                            .num_classes = classes},
                           settings);
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("detect", &detect<float, float>);
  m.def("detect", &detect<double, double>);
  m.def("detect", &detect<float, __half>);
  m.def("detect", &detect<float, __nv_bfloat16>);
  m.def("shifted_detect", &shifted_detect<float>);
  m.def("shifted_detect", &shifted_detect<__half>);
  m.def("wide_detect", &wide_detect);
}
