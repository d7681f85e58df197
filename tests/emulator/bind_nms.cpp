// The nms kernels for Python: everything of the CUDA path but the sort, which is torch's.
#include "emulator/binding.h"
#include "nms/cuda/nms.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// scores: [N] -> [N] keys that ascend in the order of suppression
template <typename S, typename Wide, typename Key>
Array<Key> keys(Array<S> scores) {
  const int64_t n = scores.shape(0);
  Array<Key> output({n});
  emulator::check(launch_nms_keys<S, Wide, Key>(scores, n, output, nullptr));
  return output;
}

// idxs, order: [N] -> [N]
Array<int64_t> classes(Array<int64_t> idxs, Array<int64_t> order) {
  Array<int64_t> output({order.shape(0)});
  emulator::check(launch_nms_classes(idxs, order, order.shape(0), output, nullptr));
  return output;
}

// boxes: [N, 4], order: [N], idxs, rank_at: [N] or None -> keep [rows], count []
template <typename S, typename T>
py::tuple nms(Array<S> boxes, Array<int64_t> order, std::optional<Array<int64_t>> idxs,
              std::optional<Array<int64_t>> rank_at, double threshold, bool inclusive, double eps,
              double pixel_offset, int64_t rows) {
  const int64_t n = boxes.shape(0), panels = nms_panels(n);
  Array<T> sorted({n, 4}), kept({2 * kNmsPanel, 4});
  Array<int64_t> sorted_classes({n}), keep({rows}), count({1});
  Array<int32_t> place_of({n}), kept_count({panels});
  Array<uint8_t> removed({n});
  Array<unsigned long long> needed({n});
  Array<uint32_t> arrived({panels}), mask({nms_mask_words(n)});
  const NmsGather<S, T> gather{boxes,    emulator::pointer(idxs),
                               order,    emulator::pointer(rank_at),
                               sorted,   sorted_classes,
                               place_of, removed,
                               needed,   arrived,
                               n};
  emulator::check(launch_nms_gather<S, T>(gather, nullptr));
  const NmsArgs<T> args{sorted,     idxs ? sorted_classes.data() : nullptr,
                        removed,    mask,
                        needed,     kept,
                        kept_count, arrived,
                        n,          suppress_rule<T>(threshold, inclusive, eps, pixel_offset)};
  emulator::check(launch_nms<T>(args, nullptr));
  const NmsOutput output{removed, idxs ? place_of.data() : nullptr, order, keep, count, n, rows};
  emulator::check(launch_nms_compact(output, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

// removed: [N] by place, order: [N], place_of: [N] or None -> keep [rows], count []
py::tuple compact(Array<uint8_t> removed, Array<int64_t> order,
                  std::optional<Array<int32_t>> place_of, int64_t rows) {
  Array<int64_t> keep({rows}), count({1});
  const NmsOutput output{removed, emulator::pointer(place_of), order, keep, count, order.shape(0),
                         rows};
  emulator::check(launch_nms_compact(output, nullptr));
  return py::make_tuple(keep.numpy(), count.numpy());
}

}  // namespace

EMULATOR_MODULE(m) {
  m.def("keys", &keys<float, float, int32_t>);
  m.def("keys", &keys<double, double, int64_t>);
  m.def("keys", &keys<__half, float, int32_t>);
  m.def("keys", &keys<__nv_bfloat16, float, int32_t>);
  m.def("classes", &classes);
  m.def("compact", &compact);
  m.def("nms", &nms<float, float>);
  m.def("nms", &nms<double, double>);
  m.def("nms", &nms<__half, float>);
  m.def("nms", &nms<__nv_bfloat16, float>);
}
