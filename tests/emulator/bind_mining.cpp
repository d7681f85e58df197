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
  const bool whole = settings.scope == MiningScope::kBatch;  // one row, as the op makes of it
  const int64_t rows = whole ? 1 : keys.shape(0);
  const int64_t width = whole ? static_cast<int64_t>(keys.size()) : keys.shape(1);
  const emulator::Memory memory;
  const HardNegativePlan<S> plan(mining_rule(settings), keys, positive,
                                 emulator::pointer(candidate), rows, width, mask, memory);
  emulator::check(launch_hard_negatives(plan, nullptr));
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
  const Array<float> table = emulator::ending_in(keys, rows * width);
  const Array<bool> positives = emulator::ending_in(positive, rows * width);
  const Array<bool> candidates = emulator::ending_in(candidate, rows * width);
  const HardNegativePlan<float> plan(mining_rule(settings), table, positives, candidates, rows,
                                     width, mask, emulator::Memory());
  emulator::check(launch_hard_negatives(plan, nullptr));
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

// The place at which the counts reach `needed`, and the sum of those before it.
__global__ void __launch_bounds__(kSelectBlock)
    needed_kernel(const unsigned* counts, int64_t count, unsigned needed, int64_t* to) {
  after_previous_kernel();
  __shared__ SearchShared shared;
  __shared__ double scratch[kSelectWarps];
  unsigned before;
  const int64_t found =
      find_needed(count, needed, before, shared, scratch, [&](int64_t i) { return counts[i]; });
  if (threadIdx.x == 0) to[0] = found, to[1] = before;
}
Array<int64_t> needed(Array<int64_t> counts, int64_t wanted) {
  Array<unsigned> given({counts.shape(0)}, 0u);
  for (std::size_t i = 0; i < counts.size(); ++i) given.data()[i] = unsigned(counts.data()[i]);
  Array<int64_t> to({2});
  emulator::check(launch(needed_kernel, dim3(1), dim3(kSelectBlock), 0, nullptr, given.data(),
                         int64_t(counts.size()), unsigned(wanted), to.data()));
  return to;
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
  m.def("needed", &needed);
  m.def("wide_top_k", &wide_top_k);
  m.def("wide_hard_negatives", &wide_hard_negatives);
}
