// Bindings of the priors family for CUDA tensors.
#include "priors.cuh"
#include "priors/priors_op.h"

namespace ssd_cuda {
namespace {

void fill_priors(const Tensor& output, const PriorSettings& settings) {
  const CudaScope scope(output);
  dispatch_priors(output, settings.single, [&](auto real, auto zero) {
    using R = decltype(real);
    using Out = decltype(zero);
    STD_TORCH_CHECK(
        reinterpret_cast<std::uintptr_t>(out<Out>(output)) % alignof(Vec4<Out>) == 0,
        "fill_priors: output must start at a multiple of a row, got an odd storage offset");
    check_cuda(launch_all_priors<R>(settings, output.size(0), out<Out>(output), scope.stream()),
               "fill_priors");
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { m.impl("fill_priors", SSD_BOX(&fill_priors)); }

}  // namespace ssd_cuda
