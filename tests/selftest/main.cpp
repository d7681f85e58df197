// Runs every CPU kernel on fixed inputs, at every instruction set of the processor, and prints a hash of what each gives:
// the same hash for every compiler, processor and level. Needs a C++20 compiler and nothing else; run.py compares.
#include <cstdio>

#include "common/cpu/parallel.h"
#include "common/cpu/simd.h"
#include "selftest.h"

// The last task first: results must not depend on the order.
void ssd_cuda::run_tasks(int64_t tasks, void (*run)(int64_t, int64_t, void*), void* context) {
  for (int64_t i = tasks; i-- > 0;) run(i, i + 1, context);
}

int selftest::threads = 1;
int ssd_cuda::task_threads() { return selftest::threads; }

void selftest::report(const char* kernel, const char* type, const Hash& hash) {
  std::printf("%s %s %s %016llx\n", kernel, type, ssd_cuda::simd_name(ssd_cuda::simd_level()),
              static_cast<unsigned long long>(hash.value()));
}

int main() {
  ssd_cuda::SimdChoice& choice = ssd_cuda::SimdChoice::get();
  if (!choice.problem().empty()) {
    std::fprintf(stderr, "%s\n", choice.problem().c_str());
    return 2;
  }
  for (int level = static_cast<int>(ssd_cuda::best_simd()); level >= 0; --level) {
    choice.set(ssd_cuda::simd_name(ssd_cuda::SimdLevel(level)));
    selftest::math();
    selftest::boxes_family();
    selftest::priors_family();
    selftest::matching_family();
    selftest::mining_family();
    selftest::multibox_family();
    selftest::nms_family();
    selftest::detect_family();
    selftest::soft_nms_family();
    selftest::focal_family();
    selftest::fusion_family();
  }
  return 0;
}
