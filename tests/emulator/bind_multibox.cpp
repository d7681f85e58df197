// The MultiBox kernels for Python: forward and backward of a batch, through every launcher.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "multibox/cuda/multibox.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename S>
using Wide = std::conditional_t<std::is_same_v<S, double>, double, float>;
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
  std::optional<Array<T>> priors, variances;
  MultiBoxSettings settings;

  Targets<T> targets(int64_t width) const {
    return {.codes = emulator::pointer(codes),
            .boxes = reinterpret_cast<const Vec4<T>*>(boxes.data()),
            .labels = labels.data(),
            .offsets = emulator::pointer(offsets),
            .priors = reinterpret_cast<const Vec4<T>*>(emulator::pointer(priors)),
            .variances = reinterpret_cast<const Vec4<T>*>(emulator::pointer(variances)),
            .variance = vec4<T>(settings.variance),
            .num_boxes = static_cast<int64_t>(boxes.size() / 4),
            .width = width,
            .own_priors = priors && static_cast<int64_t>(priors->size()) != width * 4,
            .format = box_format(settings.xyxy)};
  }
};

template <typename S>
py::tuple loss(Array<S> loc, Array<S> conf, bool channels_first, Array<Wide<S>> boxes,
               Array<int64_t> labels, std::optional<Array<int32_t>> codes,
               std::optional<Array<int32_t>> offsets, std::optional<Array<Wide<S>>> priors,
               std::optional<Array<Wide<S>>> variances, const MultiBoxSettings& settings,
               Wide<S> grad_loc, Wide<S> grad_conf) {
  using T = Wide<S>;
  const int64_t images = conf.shape(0), width = conf.shape(channels_first ? 2 : 1);
  const int64_t classes = conf.shape(channels_first ? 1 : 2);
  const Problem<T> problem{boxes, labels, codes, offsets, priors, variances, settings};
  const Targets<T> targets = problem.targets(width);
  const MultiBoxRule rule = multibox_rule(settings, classes);
  const RowsView<const S> loc_view = view<const S>(loc, width, 4, channels_first);
  const RowsView<const S> conf_view = view<const S>(conf, width, classes, channels_first);
  const TilePlan plan = plan_tile<S>(classes);
  const int64_t tiles = plan.tiles(width);

  Array<Stored<T>> keys({images, width});
  auto* key_data = reinterpret_cast<Ordered<T>*>(keys.data());
  Array<T> positive_loss({images, width}, "the losses of the positives");
  T* positive = rule.loss.positives_twice ? positive_loss.data() : nullptr;
  Array<double> tile_sums({images * tiles, sizeof(ImageSums) / 8}),
      sums({images, sizeof(ImageSums) / 8});
  Array<int64_t> cuts({images, 2}), num_positives({1});
  Array<unsigned> arrived({1});
  Array<T> localization({1}), classification({1}), scales({images});
  emulator::check(launch_keys<S, T>({.loc = loc_view,
                                     .conf = conf_view,
                                     .targets = targets,
                                     .rule = rule,
                                     .images = images,
                                     .width = width,
                                     .keys = key_data,
                                     .positive_loss = positive,
                                     .tiles = reinterpret_cast<ImageSums*>(tile_sums.data()),
                                     .arrived = arrived},
                                    plan, nullptr));
  emulator::check(launch_select<T>({.keys = key_data,
                                    .positive_loss = positive,
                                    .tiles = reinterpret_cast<const ImageSums*>(tile_sums.data()),
                                    .targets = targets,
                                    .rule = rule,
                                    .images = images,
                                    .width = width,
                                    .tiles_per_image = tiles,
                                    .arrived = arrived,
                                    .sums = reinterpret_cast<ImageSums*>(sums.data()),
                                    .cuts = cuts,
                                    .localization = localization,
                                    .classification = classification,
                                    .num_positives = num_positives,
                                    .scales = scales},
                                   nullptr));
  const auto rows = channels_first ? std::vector<py::ssize_t>{images, 4, width}
                                   : std::vector<py::ssize_t>{images, width, 4};
  const auto logits = channels_first ? std::vector<py::ssize_t>{images, classes, width}
                                     : std::vector<py::ssize_t>{images, width, classes};
  Array<S> d_loc(rows), d_conf(logits);
  Array<T> upstream_loc({1}, grad_loc), upstream_conf({1}, grad_conf);
  emulator::check(launch_backward<S, T>({.loc = loc_view,
                                         .conf = conf_view,
                                         .targets = targets,
                                         .rule = rule,
                                         .images = images,
                                         .width = width,
                                         .keys = key_data,
                                         .cuts = cuts,
                                         .scales = scales,
                                         .grad_loc = upstream_loc,
                                         .grad_conf = upstream_conf,
                                         .d_loc = view<S>(d_loc, width, 4, channels_first),
                                         .d_conf = view<S>(d_conf, width, classes, channels_first)},
                                        nullptr));
  return py::make_tuple(localization, classification, num_positives, keys, d_loc, d_conf);
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("loss", &loss<float>);
  m.def("loss", &loss<double>);
  m.def("loss", &loss<__half>);
  m.def("loss", &loss<__nv_bfloat16>);
}
