// Values from the memory of the host to that of the card as kernel arguments, some a launch: nothing is copied from memory
// that must stay as it is, nothing waits, and a graph may hold it.
//
// One thread a value. Reads nothing, writes the values.
#pragma once

#include <algorithm>

#include "launch.cuh"

namespace ssd_cuda {

constexpr int kValuesAtOnce =
    64;  // 2 KB of arguments where a value has 32 bytes; a launch may have 4

template <typename Value>
struct SomeValues {
  Value values[kValuesAtOnce];
  int count;
};

template <typename Value>
__global__ void __launch_bounds__(kValuesAtOnce)
    values_kernel(const SomeValues<Value> some, Value* to) {
  after_previous_kernel();
  const int i = static_cast<int>(threadIdx.x);
  if (i < some.count) to[i] = some.values[i];
}

// from: [count] on the host, to: [count] on the card.
template <typename Value>
inline cudaError_t put_values(const Value* from, int64_t count, Value* to, cudaStream_t stream) {
  for (int64_t first = 0; first < count; first += kValuesAtOnce) {
    SomeValues<Value> some{};
    some.count = static_cast<int>(std::min<int64_t>(kValuesAtOnce, count - first));
    std::copy_n(from + first, some.count, some.values);
    const cudaError_t error =
        launch(values_kernel<Value>, dim3(1), dim3(kValuesAtOnce), 0, stream, some, to + first);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ssd_cuda
