// The focal kernels for Python: forward and backward of a batch, through every launcher.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "focal/cuda/focal.cuh"

namespace {

using emulator::Array;
using emulator::rows;
namespace py = pybind11;
using namespace ssd_cuda;

// [B, P, K], or [B, K, P] when channels_first.
template <typename S>
RowsView<S> view(S* data, int64_t width, int64_t classes, bool channels_first) {
  if (channels_first) return {data, width * classes, 1, width};
  return {data, width * classes, classes, 1};
}

// codes: [B, P], boxes: [G, 4], labels: [G], offsets: [B + 1], priors: [P, 4]; ready targets come as boxes [B, P, 4] and labels
// [B, P] without codes -> losses, number of positives, gradients
template <typename S>
py::tuple loss(Array<S> loc, Array<S> conf, bool channels_first, Array<acc_t<S>> boxes,
               Array<int64_t> labels, std::optional<Array<int32_t>> codes,
               std::optional<Array<int32_t>> offsets, std::optional<Array<acc_t<S>>> priors,
               const FocalSettings& settings, acc_t<S> grad_loc, acc_t<S> grad_conf) {
  using T = acc_t<S>;
  const int64_t images = conf.shape(0), width = conf.shape(channels_first ? 2 : 1);
  const int64_t classes = conf.shape(channels_first ? 1 : 2);
  const Targets<T> targets{.codes = emulator::pointer(codes),
                           .boxes = rows<Vec4<T>>(boxes),
                           .labels = labels.data(),
                           .offsets = emulator::pointer(offsets),
                           .priors = rows<Vec4<T>>(priors),
                           .variances = nullptr,
                           .variance = vec4<T>(settings.variance),
                           .num_boxes = static_cast<int64_t>(boxes.size() / 4),
                           .width = width,
                           .own_priors = false,
                           .format = box_format(settings.xyxy)};
  const FocalRule<T> rule = focal_rule<T>(settings, classes);
  const FocalInputs<S, T> inputs{.loc = view<const S>(loc, width, 4, channels_first),
                                 .conf = view<const S>(conf, width, classes, channels_first),
                                 .targets = targets,
                                 .rule = rule,
                                 .images = images,
                                 .width = width,
                                 .rows_inner = channels_first};
  Array<int32_t> columns({images, width});
  Array<int64_t> num_positives({1});
  Array<T> localization({1}), classification({1}), scales({images});
  Array<T> stats({rule.softmax ? 3 : 0, images, width});
  const FocalOutputs<T> outputs{localization, classification, num_positives,
                                columns,      stats,          scales};
  const emulator::Memory memory;
  emulator::check(launch_focal(FocalPlan<S, T>(inputs, outputs, memory), nullptr));
  const auto shape = [&](int64_t count) {
    return channels_first ? std::vector<py::ssize_t>{images, count, width}
                          : std::vector<py::ssize_t>{images, width, count};
  };
  Array<S> d_loc(shape(4)), d_conf(shape(classes));
  Array<T> upstream_loc({1}, grad_loc), upstream_conf({1}, grad_conf);
  const FocalBackwardArgs<S, T> args{inputs,
                                     {columns, stats, scales, upstream_loc, upstream_conf},
                                     view<S>(d_loc, width, 4, channels_first),
                                     d_conf};
  emulator::check(launch_focal_backward(args, nullptr));
  return py::make_tuple(localization, classification, num_positives, d_loc, d_conf);
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("loss", &loss<float>);
  m.def("loss", &loss<double>);
  m.def("loss", &loss<__half>);
  m.def("loss", &loss<__nv_bfloat16>);
}
