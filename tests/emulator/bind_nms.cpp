// The nms kernels for Python: everything of the CUDA path.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "nms/cuda/nms.cuh"
#include "nms/nms_rule.h"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// boxes: [N, 4], scores: [N], idxs: [N] or None -> keep [rows], count []; tuning: see NmsTuning
template <typename S, typename Score>
py::tuple run(Array<S> boxes, Array<Score> scores, std::optional<Array<int64_t>> idxs,
              const NmsPaddedSettings& settings, const NmsTuning& tuning) {
  using T = acc_t<S>;
  using Item = NmsItem<acc_t<Score>>;
  const int64_t rows = settings.max_output;
  const int64_t n = boxes.shape(0);
  emulator::Memory memory;
  const auto rule = suppress_rule_of<T>(settings);
  const NmsArgs<T> args(NmsPlan(n, tuning), n, idxs.has_value(), rule, memory);
  Array<int64_t> keep({rows}), count({1});
  const NmsInput<S> input{boxes, emulator::pointer(idxs)};
  if (n > 0) {
    emulator::check(
        launch_nms_sort<S, Score, T, Item>(input, scores, memory(2 * n, Item{}), args, nullptr));
    emulator::check(launch_nms_panels(args, nullptr));
  }
  emulator::check(launch_nms_compact({args.states, args.order, keep, count, n, rows}, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

// states: [N] by rank, order: [N] -> keep [rows], count []
py::tuple compact(Array<uint8_t> states, Array<int32_t> order, int64_t rows) {
  Array<int64_t> keep({rows}), count({1});
  emulator::check(launch_nms_compact({states, order, keep, count, order.shape(0), rows}, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

// a, b: [N, 4] -> [N] whether a[i] removes b[i], [N] what the test without a branch says: 0 no, 1 yes, 2 unclear; [N] whether
// they are near each other
template <typename T>
py::tuple removes(Array<T> a, Array<T> b, const NmsSettings& settings) {
  const auto rule = suppress_rule_of<T>(settings);
  Array<uint8_t> result({a.shape(0)}), sure({a.shape(0)}), near({a.shape(0)});
  const auto box = [](const Array<T>& boxes, py::ssize_t i) {
    return reinterpret_cast<const Vec4<T>*>(boxes.data())[i];
  };
  const nms::GridRule<T> grid(rule);
  const auto span = [&](Vec4<T> x) {
    return grid.span(x, rule.any_pair() ? nms::Kind::kOdd : nms::kind_of(x, rule.area(x), rule));
  };
  for (py::ssize_t i = 0; i < a.shape(0); ++i) {
    const Vec4<T> x = box(a, i), y = box(b, i);
    result.data()[i] = rule(x, rule.area(x), y, rule.area(y));
    const auto said = rule.sure(x, rule.area(x), y, rule.area(y));
    sure.data()[i] = said.yes ? 1 : said.unclear ? 2 : 0;
    near.data()[i] = nms::GridRule<T>::near(span(x), span(y));
  }
  return py::make_tuple(result.numpy(), sure.numpy(), near.numpy());
}

// a, b: [N, 4] -> [N] whether a[i] removes b[i], both normal; [N] whether a search for b[i] looks where a[i] is filed; [N] whether
// the cells there are told to be too few
template <typename T>
py::tuple finds(Array<T> a, Array<T> b, const NmsSettings& settings, int finer) {
  const auto rule = suppress_rule_of<T>(settings);
  const nms::GridRule<T> grid(rule, finer);
  const auto n = a.shape(0);
  Array<uint8_t> removes({n}), found({n}), too_few({n});
  const auto normal = [&](Vec4<T> x) {
    return nms::kind_of(x, rule.area(x), rule) == nms::Kind::kNormal;
  };
  for (py::ssize_t i = 0; i < n; ++i) {
    const auto x = reinterpret_cast<const Vec4<T>*>(a.data())[i];
    const auto y = reinterpret_cast<const Vec4<T>*>(b.data())[i];
    const bool both = normal(x) && normal(y);
    removes.data()[i] = both && rule(x, rule.area(x), y, rule.area(y));
    found.data()[i] = too_few.data()[i] = 0;
    if (!both) continue;
    const nms::Shape<T> own = grid.shape(x), query = grid.shape(y);
    const nms::Cell<T> home = grid.home(own);
    const nms::Cells<T> cells = grid.cells(query, own.level);
    found.data()[i] = grid.lowest_level(query) <= own.level &&
                      own.level <= grid.highest_level(query) && cells.x_first <= home.x &&
                      home.x <= cells.x_last && cells.y_first <= home.y && home.y <= cells.y_last;
    const double many = static_cast<double>(cells.width()) * static_cast<double>(cells.height());
    too_few.data()[i] = !(cells.count >= std::min(many, 0x1p24));
  }
  return py::make_tuple(removes.numpy(), found.numpy(), too_few.numpy());
}

// The panels of n boxes: (begin, end) each.
std::vector<std::pair<int64_t, int64_t>> panels(int64_t n, const NmsTuning& tuning) {
  std::vector<std::pair<int64_t, int64_t>> result;
  for_each_nms_panel(n, tuning,
                     [&](int64_t begin, int64_t end) { result.emplace_back(begin, end); });
  return result;
}

// (tiles of a group, passes) of a sort of n boxes.
std::pair<int64_t, int> merges(int64_t n, const NmsTuning& tuning) {
  const NmsMergePlan plan(n, tuning);
  return {plan.fan, plan.passes};
}

}  // namespace

EMULATOR_MODULE(m) {
  py::class_<NmsTuning>(m, "Tuning")
      .def(py::init<>())
      .def_readwrite("first_panel", &NmsTuning::first_panel)
      .def_readwrite("growth", &NmsTuning::growth)
      .def_readwrite("attempts", &NmsTuning::attempts)
      .def_readwrite("merge_once", &NmsTuning::merge_once)
      .def_readwrite("merge_most", &NmsTuning::merge_most)
      .def_readwrite("at_once", &NmsTuning::at_once);
  m.def("removes", &removes<float>);
  m.def("removes", &removes<double>);
  m.def("finds", &finds<float>);
  m.def("finds", &finds<double>);
  m.def("panels", &panels);
  m.def("merges", &merges);
  m.def("compact", &compact);
  m.def("nms", &run<float, float>);
  m.def("nms", &run<double, double>);
  m.def("nms", &run<__half, __half>);
  m.def("nms", &run<__nv_bfloat16, __nv_bfloat16>);
  m.def("nms", &run<float, double>);
  m.def("nms", &run<__half, float>);
}
