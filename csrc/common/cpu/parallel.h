// Work on many threads without knowing whose: the extension has torch's (module.cpp), the self-test its own.
#pragma once

#include <cstdint>

namespace ssd_cuda {

// Calls run(first, last, context) for ranges that make up [0, tasks), on any threads, and waits for all of them. Each
// program defines it once.
void run_tasks(int64_t tasks, void (*run)(int64_t first, int64_t last, void* context),
               void* context);

// About how many threads run_tasks has, for work that is done otherwise where there is one: with the same result.
int task_threads();

// fn(first, last) for ranges that make up [0, count).
template <typename Fn>
inline void parallel_ranges(int64_t count, const Fn& fn) {
  const auto run = [](int64_t first, int64_t last, void* context) {
    (*static_cast<const Fn*>(context))(first, last);
  };
  run_tasks(count, run, const_cast<void*>(static_cast<const void*>(&fn)));
}

// fn(begin, end) over [0, count). Work is cut at multiples of grain, so a caller that keeps one partial result per
// grain gets the same bits for any number of threads.
template <typename Fn>
inline void parallel_grains(int64_t count, int64_t grain, const Fn& fn) {
  if (count <= 0) return;  // a grain that follows from the count may be 0 then
  parallel_ranges((count + grain - 1) / grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      fn(i * grain, (i + 1) * grain < count ? (i + 1) * grain : count);
    }
  });
}

}  // namespace ssd_cuda
