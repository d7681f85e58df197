// Prior generation on the CPU; the schema of the family.
#include "fill_level.h"
#include "priors/priors_op.h"

namespace ssd_cuda {
namespace {

void fill_priors(Tensor output, Ints grid, Doubles divisors, Doubles sizes, Doubles frame,
                 int64_t clip, bool corners, bool box_major, bool single) {
  const PriorStyle style = prior_style(frame, clip, corners, box_major);
  dispatch_priors(output, single, [&](auto real, auto zero) {
    using R = decltype(real);
    using Out = decltype(zero);
    auto* rows = out<Vec4<Out>>(output);
    for_each_level(grid, divisors, sizes, output.size(0),
                   [&](const PriorLevel& level, const double* size) {
                     fill_level<R>(level, style, size, rows);
                   });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "fill_priors(Tensor(a!) output, int[] grid, float[] divisors, float[] sizes, float[] frame, "
      "int clip, bool corners, bool box_major, bool single) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("fill_priors", TORCH_BOX(&fill_priors)); }

}  // namespace ssd_cuda
