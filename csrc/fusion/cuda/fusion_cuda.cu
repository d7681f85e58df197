// Weighted boxes fusion for CUDA tensors.
#include "common/torch/planned.h"
#include "fusion.cuh"
#include "fusion/fusion_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <typename T>
  static void run(const FusionRule<T>& rule, const std::vector<T>& weights,
                  const FusionInputs<T>& inputs, const FusionOutputs<T>& outputs,
                  const Tensor& where) {
    const CudaScope scope(where);
    const auto [memory, args] = planned<FusionArgs<T>>(where, rule, inputs, outputs);
    check_cuda(launch_fusion(args, weights.data(), scope.stream()), "weighted_boxes_fusion");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("weighted_boxes_fusion", SSD_BOX(&fusion_op<RunOnCard>));
}

}  // namespace ssd_cuda
