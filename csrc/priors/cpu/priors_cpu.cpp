// Prior generation on the CPU; the schema of the family.
#include "fill_level.h"
#include "priors/priors_op.h"

namespace ssd_cuda {
namespace {

void fill_priors(const Tensor& output, const PriorSettings& settings) {
  const PriorStyle style = prior_style(settings);
  dispatch_priors(output, settings.single, [&](auto real, auto zero) {
    using R = decltype(real);
    using Out = decltype(zero);
    auto* rows = out<Vec4<Out>>(output);
    for_each_level(settings, output.size(0), [&](const PriorLevel& level, const double* size) {
      fill_level<R>(level, style, size, rows);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  define_op<PriorSettings>(m, "fill_priors", "Tensor(a!) output", "()");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { m.impl("fill_priors", SSD_BOX(&fill_priors)); }

}  // namespace ssd_cuda
