// soft-NMS for CUDA tensors.
#include "common/torch/planned.h"
#include "soft_nms.cuh"
#include "soft_nms/soft_nms_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <typename T>
  static void run(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                  const SoftRule<T>& rule, const Tensor& keep, const Tensor& kept_scores,
                  const Tensor& count) {
    const CudaScope scope(boxes);
    auto [memory, args] = planned<SoftNmsArgs<T>>(boxes, boxes.size(0));
    args.rows = keep.size(0);
    args.rule = rule;
    args.boxes = in<Vec4<T>>(boxes);
    args.scores = in<T>(scores);
    args.idxs = in<int64_t>(idxs);
    check_cuda(launch_soft_nms(args, out<int64_t>(keep), out<T>(kept_scores), out<int64_t>(count),
                               scope.stream()),
               "soft_nms");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("soft_nms", SSD_BOX(&soft_nms_op<RunOnCard>));
}

}  // namespace ssd_cuda
