// The mining kernels for Python.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "mining/cuda/mining.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

template <typename S>
constexpr KeyType kType = std::is_same_v<S, double>          ? KeyType::kDouble
                          : std::is_same_v<S, __half>        ? KeyType::kHalf
                          : std::is_same_v<S, __nv_bfloat16> ? KeyType::kBFloat16
                                                             : KeyType::kFloat;
template <typename S>
using Wide = std::conditional_t<std::is_same_v<S, double>, double, float>;

// keys: [B, P], k: [B] -> threshold [B], tie_index [B], count [B], sum [B], mask [B, P]
template <typename S>
auto top_k(Array<S> keys, Array<int64_t> k) {
  const auto batch = keys.shape(0), width = keys.shape(1);
  Array<S> threshold({batch});
  Array<int64_t> tie({batch}), count({batch});
  Array<Wide<S>> sum({batch});
  Array<bool> mask({batch, width});
  emulator::check(launch_top_k<Wide<S>>({.keys = keys.data(),
                                         .type = kType<S>,
                                         .k = k,
                                         .batch = batch,
                                         .width = width,
                                         .threshold = threshold.data(),
                                         .tie_index = tie,
                                         .count = count,
                                         .sum = sum.data(),
                                         .mask = mask},
                                        nullptr));
  return std::make_tuple(threshold, tie, count, sum, mask);
}

// keys: [B, P], positive, candidate: bool [B, P] -> bool [B, P]
template <typename S>
Array<bool> hard_negatives(Array<S> keys, Array<bool> positive,
                           std::optional<Array<bool>> candidate, const MiningSettings& settings) {
  Array<bool> mask({keys.shape(0), keys.shape(1)});
  emulator::check(launch_hard_negatives<Wide<S>>({.keys = keys.data(),
                                                  .type = kType<S>,
                                                  .positive = positive,
                                                  .candidate = emulator::pointer(candidate),
                                                  .rule = mining_rule(settings),
                                                  .batch = keys.shape(0),
                                                  .width = keys.shape(1),
                                                  .mask = mask},
                                                 nullptr));
  return mask;
}

template <typename S>
void define(py::module_& m) {
  m.def("top_k", &top_k<S>);
  m.def("hard_negatives", &hard_negatives<S>);
}

}  // namespace

EMULATOR_MODULE(m) {
  define<float>(m);
  define<double>(m);
  define<__half>(m);
  define<__nv_bfloat16>(m);
}
