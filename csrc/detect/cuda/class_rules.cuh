// Thresholds by class, from the memory of the host to that of the card: they travel as kernel arguments, some classes a
// launch, so that nothing is copied from memory that must stay as it is, nothing waits, and a graph may hold it.
//
// One thread a class. Reads nothing, writes 4 T a class.
#pragma once

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "detect/detect_rule.h"

namespace ssd_cuda {

constexpr int kRulesAtOnce = 64;  // 2 KB of arguments in float64; a launch may have 4

template <typename T>
struct SomeRules {
  ClassRule<T> rules[kRulesAtOnce];
  int count;
};

template <typename T>
__global__ void __launch_bounds__(kRulesAtOnce)
    class_rules_kernel(const SomeRules<T> some, ClassRule<T>* rules) {
  after_previous_kernel();
  const int c = static_cast<int>(threadIdx.x);
  if (c < some.count) rules[c] = some.rules[c];
}

// Makes options.classes, host memory, the `rules` on the card, [last_label].
template <typename T>
inline cudaError_t take_class_rules(DetectOptions<T>& options, ClassRule<T>* rules,
                                    cudaStream_t stream) {
  for (int64_t first = 0; first < options.last_label; first += kRulesAtOnce) {
    SomeRules<T> some{};
    some.count = static_cast<int>(std::min<int64_t>(kRulesAtOnce, options.last_label - first));
    std::copy_n(options.classes + first, some.count, some.rules);
    const cudaError_t error =
        launch(class_rules_kernel<T>, dim3(1), dim3(kRulesAtOnce), 0, stream, some, rules + first);
    if (error != cudaSuccess) return error;
  }
  options.classes = rules;
  return cudaSuccess;
}

}  // namespace ssd_cuda
