// Matching on the CPU; the schema of the family.
#include "match_call.h"
#include "matching/matching_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename T>
  static void match(const MatchProblem<T>& problem, const Tensor&) {
    MatchCall<T>(problem).run();
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<MatchSettings>(m, "match", "Tensor boxes, Tensor offsets, Tensor priors", "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("match", SSD_BOX(&match_op<RunOnCpu>)); }

}  // namespace ssd_cuda
