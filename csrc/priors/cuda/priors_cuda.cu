// Bindings of the priors family for CUDA tensors.
#include <algorithm>

#include "priors.cuh"
#include "priors/priors_op.h"

namespace ssd_cuda {
namespace {

void fill_priors(const Tensor& output, const PriorSettings& settings) {
  const CudaScope scope(output);
  const PriorStyle style = prior_style(settings);
  dispatch_priors(output, settings.single, [&](auto real, auto zero) {
    using R = decltype(real);
    using Out = decltype(zero);
    STD_TORCH_CHECK(
        reinterpret_cast<std::uintptr_t>(out<Out>(output)) % alignof(Vec4<Out>) == 0,
        "fill_priors: output must start at a multiple of a row, got an odd storage offset");
    for_each_level(settings, output.size(0), [&](const PriorLevel& level, const double* size) {
      for (int64_t first = 0; first < level.boxes; first += kMaxCellBoxes) {
        CellBoxes boxes{.first = first,
                        .count = std::min<int64_t>(kMaxCellBoxes, level.boxes - first)};
        for (int64_t i = 0; i < boxes.count; ++i) {
          boxes.width[i] = size[2 * (first + i)];
          boxes.height[i] = size[2 * (first + i) + 1];
        }
        check_cuda(launch_priors<R, Out>(level, style, boxes, out<Out>(output), scope.stream()),
                   "fill_priors");
      }
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { m.impl("fill_priors", SSD_BOX(&fill_priors)); }

}  // namespace ssd_cuda
