// The mining kernels for Python.
#include "emulator/binding.h"
#include "emulator/options.h"
#include "emulator/wide.h"
#include "mining/cuda/mining.cuh"

namespace {

using emulator::Array;
namespace py = pybind11;
using namespace ssd_cuda;

// keys: [B, P], k: [B] -> threshold [B], tie_index [B], count [B], sum [B], mask [B, P]
template <typename S>
auto top_k(Array<S> keys, Array<int64_t> k) {
  const auto batch = keys.shape(0), width = keys.shape(1);
  Array<S> threshold({batch});
  Array<int64_t> tie({batch}), count({batch});
  Array<acc_t<S>> sum({batch});
  Array<bool> mask({batch, width});
  const SelectedRows<S> to{threshold, tie, count, sum, mask};
  emulator::check(launch_top_k<S>(keys, k, batch, width, to, nullptr));
  return std::make_tuple(threshold, tie, count, sum, mask);
}

// keys: [B, P], positive, candidate: bool [B, P] -> bool [B, P]
template <typename S>
Array<bool> hard_negatives(Array<S> keys, Array<bool> positive,
                           std::optional<Array<bool>> candidate, const MiningSettings& settings) {
  Array<bool> mask({keys.shape(0), keys.shape(1)});
  emulator::check(launch_hard_negatives<S>(mining_rule(settings), keys, positive,
                                           emulator::pointer(candidate), keys.shape(0),
                                           keys.shape(1), mask, nullptr));
  return mask;
}

// keys: the last row of [rows, P] -> its mask
Array<bool> wide_top_k(Array<float> keys, int64_t k, int64_t rows) {
  const int64_t width = keys.shape(0);
  const Array<float> table = emulator::ending_in(keys, rows * width);
  Array<int64_t> ks({rows}, k), tie({rows}), count({rows});
  Array<float> threshold({rows}), sum({rows});
  Array<bool> mask({rows * width}, "a large output");
  const SelectedRows<float> to{threshold, tie, count, sum, mask};
  emulator::check(launch_top_k<float>(table, ks, rows, width, to, nullptr));
  return emulator::end_of(mask, width);
}

// keys, positive, candidate: the last row of [rows, P] -> its mask
Array<bool> wide_hard_negatives(Array<float> keys, Array<bool> positive, Array<bool> candidate,
                                const MiningSettings& settings, int64_t rows) {
  const int64_t width = keys.shape(0);
  Array<bool> mask({rows * width}, "a large output");
  emulator::check(launch_hard_negatives<float>(
      mining_rule(settings), emulator::ending_in(keys, rows * width),
      emulator::ending_in(positive, rows * width), emulator::ending_in(candidate, rows * width),
      rows, width, mask, nullptr));
  return emulator::end_of(mask, width);
}

// The sum of a block's numbers and the largest of them, through one scratch: what is free to use again at once.
__global__ void __launch_bounds__(kSelectBlock)
    reduce_twice_kernel(const double* numbers, double* results) {
  __shared__ double scratch[kSelectWarps];
  after_previous_kernel();
  const double own = numbers[threadIdx.x];
  const double sum = block_reduce(own, scratch, [](double a, double b) { return a + b; });
  const double largest =
      block_reduce(own, scratch, [](double a, double b) { return a > b ? a : b; });
  results[2 * threadIdx.x] = sum;
  results[2 * threadIdx.x + 1] = largest;
}

// numbers: [kSelectBlock] -> what every thread has: [kSelectBlock, 2]
Array<double> reduce_twice(Array<double> numbers) {
  Array<double> results({kSelectBlock, 2});
  emulator::check(launch(reduce_twice_kernel, dim3(1), dim3(kSelectBlock), 0, nullptr,
                         static_cast<const double*>(numbers), static_cast<double*>(results)));
  return results;
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
  m.def("reduce_twice", &reduce_twice);
  m.def("wide_top_k", &wide_top_k);
  m.def("wide_hard_negatives", &wide_hard_negatives);
}
