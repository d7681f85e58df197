// The MultiBox kernels for Python: forward and backward of a batch, through every launcher.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"
#include "matching/cuda/matching.cuh"
#include "multibox/cuda/multibox.cuh"

namespace {

using emulator::Array;
using emulator::rows;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename T>
using Stored = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// [B, P, K], or [B, K, P] when channels_first.
template <typename S>
RowsView<S> view(S* data, int64_t width, int64_t classes, bool channels_first) {
  if (channels_first) return {data, width * classes, 1, width};
  return {data, width * classes, classes, 1};
}

// codes: [B, P], boxes: [G, 4], labels: [G], offsets: [B + 1], priors: [P, 4] or [B, P, 4]; ready targets come as
// boxes [B, P, 4] and labels [B, P] without codes.
template <typename T>
struct Problem {
  Array<T> boxes;
  Array<int64_t> labels;
  std::optional<Array<int32_t>> codes, offsets;
  std::optional<Array<T>> priors, variances, class_weights;
  MultiBoxSettings settings;

  Targets<T> targets(int64_t width, int64_t classes) const {
    return {.codes = emulator::pointer(codes),
            .boxes = rows<Vec4<T>>(boxes),
            .labels = labels.data(),
            .offsets = emulator::pointer(offsets),
            .priors = rows<Vec4<T>>(priors),
            .variances = rows<Vec4<T>>(variances),
            .variance = vec4<T>(settings.variance),
            .num_boxes = static_cast<int64_t>(boxes.size() / 4),
            .width = width,
            .own_priors = priors && static_cast<int64_t>(priors->size()) != width * 4,
            .format = box_format(settings.xyxy),
            .terms = class_terms(emulator::pointer(class_weights), settings, classes)};
  }
};

// Matches, as the op that does both: match_plan() chooses, and what runs beside it -> blocks of a cluster, 0: none.
template <typename T>
unsigned match(const Problem<T>& problem, int64_t width, Array<int32_t>& codes,
               const MatchSettings& settings, const emulator::Memory& memory) {
  const MatchProblem<T> matching{.boxes = rows<Vec4<T>>(problem.boxes),
                                 .offsets = emulator::pointer(problem.offsets),
                                 .priors = rows<Vec4<T>>(problem.priors),
                                 .rows = problem.boxes.shape(0),
                                 .batch = problem.offsets->shape(0) - 1,
                                 .num_priors = width,
                                 .per_image = problem.targets(width, 1).own_priors,
                                 .rule = match_rule<T>(settings),
                                 .codes = codes};
  const MatchPlan plan = match_plan(matching);
  emulator::check(launch_match(MatchArgs<T>(matching, plan, memory), plan, nullptr));
  return plan.blocks;
}

// codes: [B, P], or null and what they are matched by. With the last result: blocks of the clusters that matched.
template <typename S>
py::tuple loss(Array<S> loc, Array<S> conf, bool channels_first, Array<acc_t<S>> boxes,
               Array<int64_t> labels, std::optional<Array<int32_t>> codes,
               std::optional<Array<int32_t>> offsets, std::optional<Array<acc_t<S>>> priors,
               std::optional<Array<acc_t<S>>> variances,
               std::optional<Array<acc_t<S>>> class_weights, const MultiBoxSettings& settings,
               acc_t<S> grad_loc, acc_t<S> grad_conf, std::optional<MatchSettings> matching) {
  using T = acc_t<S>;
  const int64_t images = conf.shape(0), width = conf.shape(channels_first ? 2 : 1);
  const int64_t classes = conf.shape(channels_first ? 1 : 2);
  if (matching) codes.emplace(Array<int32_t>({images, width}));
  const Problem<T> problem{boxes,  labels,    codes,         offsets,
                           priors, variances, class_weights, settings};
  const LossInputs<S, T> inputs{.loc = view<const S>(loc, width, 4, channels_first),
                                .conf = view<const S>(conf, width, classes, channels_first),
                                .targets = problem.targets(width, classes),
                                .rule = multibox_rule(settings, classes),
                                .images = images,
                                .width = width};
  Array<Stored<T>> keys({images, width});
  auto* key_data = rows<Ordered<T>>(keys);
  Array<int64_t> cuts({images, 2}), num_positives({1});
  Array<T> localization({1}), classification({1}), scales({images});
  const LossOutputs<T> outputs{localization, classification, num_positives, key_data, cuts, scales};
  const emulator::Memory memory;
  const auto shape = [&](int64_t columns) {
    return channels_first ? std::vector<py::ssize_t>{images, columns, width}
                          : std::vector<py::ssize_t>{images, width, columns};
  };
  Array<S> d_loc(shape(4)), d_conf(shape(classes));
  const LossPlan<S, T> plan(inputs, outputs, d_conf.data(), memory);
  const unsigned cluster = matching ? match<T>(problem, width, *codes, *matching, memory) : 0;
  emulator::check(launch_loss(plan, nullptr, cluster > 0));
  Array<T> upstream_loc({1}, grad_loc), upstream_conf({1}, grad_conf);
  const BackwardArgs<S, T> args{
      inputs,
      {key_data, cuts, scales, upstream_loc, upstream_conf},
      {view<S>(d_loc, width, 4, channels_first), view<S>(d_conf, width, classes, channels_first)}};
  emulator::check(launch_backward(args, nullptr));
  return py::make_tuple(localization, classification, num_positives, keys, d_loc, d_conf, cluster);
}

// The loss on ready targets. loc, loc_target: [B, P, 4], conf: [B, P, C], labels: [B, P]; rows, or columns where channels
// come first, lie `step` apart, and so do the images of the gradients -> losses, gradients
py::tuple wide_loss(Array<float> loc, Array<float> conf, Array<float> loc_target,
                    Array<int64_t> labels, const MultiBoxSettings& settings, int64_t step,
                    bool channels_first) {
  using emulator::Spread;
  const int64_t images = conf.shape(0), width = conf.shape(1), classes = conf.shape(2);
  const auto from = [&](int64_t columns) {
    return Spread<RowsView<const float>>::of(width, columns, step, channels_first);
  };
  const auto to = [&](int64_t columns) {
    if (channels_first) return Spread<RowsView<float>>::of(width, columns, step, true);
    return Spread<RowsView<float>>{4 * step, columns, 1};
  };
  const Array<float> x = from(4).with(loc), y = from(classes).with(conf);
  const Problem<float> problem{loc_target, labels, {}, {}, {}, {}, {}, settings};
  const LossInputs<float, float> inputs{from(4).view(x),
                                        from(classes).view(y),
                                        problem.targets(width, classes),
                                        multibox_rule(settings, classes),
                                        images,
                                        width};
  Array<unsigned> keys({images, width});
  Array<int64_t> cuts({images, 2}), num_positives({1});
  Array<float> localization({1}), classification({1}), scales({images}), one({1}, 1.0f);
  const emulator::Memory memory;
  const LossOutputs<float> outputs{localization, classification, num_positives, keys, cuts, scales};
  emulator::check(launch_loss(LossPlan<float, float>(inputs, outputs, nullptr, memory), nullptr));
  const Array<float> zeros({images, width, classes}, 0.0f);
  const Array<float> d_loc = to(4).empty(loc), d_conf = to(classes).with(zeros);
  const BackwardArgs<float, float> args{
      inputs, {keys, cuts, scales, one, one}, {to(4).view(d_loc), to(classes).view(d_conf)}};
  emulator::check(launch_backward(args, nullptr));
  return py::make_tuple(localization, classification, to(4).gather(d_loc, loc),
                        to(classes).gather(d_conf, conf));
}

// atan of the losses of boxes, number by number.
template <typename T>
Array<T> arctangents(Array<T> x) {
  Array<T> result({x.shape(0)});
  for (std::size_t i = 0; i < x.size(); ++i) result.data()[i] = atan_fixed(x.data()[i]);
  return result;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("loss", &loss<float>);
  m.def("loss", &loss<double>);
  m.def("loss", &loss<__half>);
  m.def("loss", &loss<__nv_bfloat16>);
  m.def("wide_loss", &wide_loss);
  m.def("arctangents", &arctangents<float>);
  m.def("arctangents", &arctangents<double>);
}
