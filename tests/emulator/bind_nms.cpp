// The nms kernels for Python: everything of the CUDA path; a stable sort stands in for torch's.
#include <algorithm>
#include <numeric>

#include "emulator/binding.h"
#include "emulator/options.h"
#include "nms/cuda/nms.cuh"
#include "nms/nms_rule.h"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename T>
using Key = std::conditional_t<std::is_same_v<T, double>, int64_t, int32_t>;

// scores: [N] -> [N] keys that ascend in the order of suppression
template <typename S, typename T>
Array<Key<T>> keys(Array<S> scores) {
  const int64_t n = scores.shape(0);
  Array<Key<T>> output({n});
  Array<uint32_t> counters({kNmsCounters});
  emulator::check(launch_nms_keys<S, T, Key<T>>(scores, n, output, counters, nullptr));
  for (std::size_t i = 0; i < counters.size(); ++i) {
    if (counters.data()[i] != 0) throw std::runtime_error("the counters are not cleared");
  }
  return output;
}

// boxes: [N, 4], scores: [N], idxs: [N] or None -> keep [rows], count []; first_panel: see NmsPlan
template <typename S, typename T>
py::tuple run(Array<S> boxes, Array<S> scores, std::optional<Array<int64_t>> idxs,
              const NmsPaddedSettings& settings, int64_t first_panel) {
  const int64_t rows = settings.max_output;
  const int64_t n = boxes.shape(0);
  emulator::Memory memory;
  const auto rule = suppress_rule_of<T>(settings);
  const NmsArgs<T> args(NmsPlan(n, first_panel), n, idxs.has_value(), rule, memory);
  Array<Key<T>> key({n});
  emulator::check(launch_nms_keys<S, T, Key<T>>(scores, n, key, args.counters, nullptr));
  Array<int64_t> order({n}, int64_t{0}), keep({rows}), count({1});
  std::iota(order.data(), order.data() + n, 0);
  std::stable_sort(order.data(), order.data() + n,
                   [&](int64_t a, int64_t b) { return key.data()[a] < key.data()[b]; });
  const NmsInput<S> input{boxes, emulator::pointer(idxs), order};
  emulator::check(launch_nms(input, args, nullptr));
  emulator::check(launch_nms_compact({args.states, order, keep, count, n, rows}, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

// states: [N] by rank, order: [N] -> keep [rows], count []
py::tuple compact(Array<uint8_t> states, Array<int64_t> order, int64_t rows) {
  Array<int64_t> keep({rows}), count({1});
  emulator::check(launch_nms_compact({states, order, keep, count, order.shape(0), rows}, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

// a, b: [N, 4] -> [N] whether a[i] removes b[i]
template <typename T>
Array<uint8_t> removes(Array<T> a, Array<T> b, const NmsSettings& settings) {
  const auto rule = suppress_rule_of<T>(settings);
  Array<uint8_t> result({a.shape(0)});
  const auto box = [](const Array<T>& boxes, py::ssize_t i) {
    return reinterpret_cast<const Vec4<T>*>(boxes.data())[i];
  };
  for (py::ssize_t i = 0; i < a.shape(0); ++i) {
    const Vec4<T> x = box(a, i), y = box(b, i);
    result.data()[i] = rule(x, rule.area(x), y, rule.area(y));
  }
  return result;
}

// The panels of n boxes: (begin, end) each.
std::vector<std::pair<int64_t, int64_t>> panels(int64_t n, int64_t first_panel) {
  std::vector<std::pair<int64_t, int64_t>> result;
  for_each_nms_panel(n, first_panel,
                     [&](int64_t begin, int64_t end) { result.emplace_back(begin, end); });
  return result;
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("keys", &keys<float, float>);
  m.def("keys", &keys<double, double>);
  m.def("keys", &keys<__half, float>);
  m.def("keys", &keys<__nv_bfloat16, float>);
  m.def("removes", &removes<float>);
  m.def("removes", &removes<double>);
  m.def("panels", &panels);
  m.def("compact", &compact);
  m.def("nms", &run<float, float>);
  m.def("nms", &run<double, double>);
  m.def("nms", &run<__half, float>);
  m.def("nms", &run<__nv_bfloat16, float>);
}
