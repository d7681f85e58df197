// nms for CUDA tensors.
#include "common/cuda/workspace.h"
#include "nms.cuh"
#include "nms/nms_op.h"

namespace ssd_cuda {
namespace {

// The workspace, and where it says the state of every box in score order, and that order.
struct Decided {
  Tensor workspace;
  const uint8_t* states;
  const int32_t* order;
};

template <typename S, typename Score>
Decided decide(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
               const SuppressRule<acc_t<S>>& rule, cudaStream_t stream) {
  using T = acc_t<S>;
  using Item = NmsItem<acc_t<Score>>;
  const int64_t n = boxes.size(0);
  const NmsPlan plan(n);
  WorkspaceBytes size;
  (void)NmsArgs<T>(plan, n, idxs.has_value(), rule, size);
  size(2 * n, Item{});
  const Tensor workspace = empty_on(boxes, {size.bytes()}, ScalarType::Byte);
  const WorkspaceMemory memory(out<char>(workspace));
  const NmsArgs<T> args(plan, n, idxs.has_value(), rule, memory);
  Item* const items = memory(2 * n, Item{});
  const NmsInput<S> input{in<S>(boxes), in<int64_t>(idxs)};
  check_cuda(launch_nms_sort<S, Score, T, Item>(input, in<Score>(scores), items, args, stream),
             "nms");
  check_cuda(launch_nms_panels(args, stream), "nms");
  return {workspace, args.states, args.order};
}

// -> int64 [max_output] padded with -1, int64 []
std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& idxs,
                                      const NmsPaddedSettings& settings) {
  const int64_t max_output = settings.max_output;
  check_nms(boxes, scores, idxs, max_output);
  const CudaScope scope(boxes);
  const int64_t n = boxes.size(0);
  const Tensor box = dense(boxes), score = dense(scores);
  const auto idx = dense_or_none(idxs);
  Tensor keep = empty_on(box, {max_output}, ScalarType::Long);
  Tensor count = empty_on(box, {}, ScalarType::Long);
  NmsOutput output{nullptr, nullptr, out<int64_t>(keep), out<int64_t>(count), n, max_output};
  Decided decided;
  if (n > 0) {
    dispatch_floating(box.scalar_type(), "nms", [&](auto zero) {
      using S = decltype(zero);
      const auto rule = suppress_rule_of<acc_t<S>>(settings);
      dispatch_floating(score.scalar_type(), "nms", [&](auto score_zero) {
        decided = decide<S, decltype(score_zero)>(box, score, idx, rule, scope.stream());
      });
    });
    output.states = decided.states;
    output.order = decided.order;
  }
  check_cuda(launch_nms_compact(output, scope.stream()), "nms");
  return {keep, count};
}

// -> int64 [kept]; waits for the device to learn the size of its result.
Tensor nms_indices(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                   const NmsSettings& settings) {
  check_nms(boxes, scores, idxs, 0);
  const NmsPaddedSettings padded{settings.iou_threshold, settings.inclusive, settings.iou_eps,
                                 settings.pixel_offset, boxes.size(0)};
  const auto [keep, count] = nms_padded(boxes, scores, idxs, padded);
  const CudaScope scope(boxes);
  int64_t kept = 0;
  check_cuda(cudaMemcpyAsync(&kept, in<int64_t>(count), sizeof kept, cudaMemcpyDeviceToHost,
                             scope.stream()),
             "nms");
  check_cuda(cudaStreamSynchronize(scope.stream()), "nms");
  Tensor rows = keep;
  return torch::stable::narrow(rows, 0, 0, kept);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("nms", SSD_BOX(&nms_indices));
  m.impl("nms_padded", SSD_BOX(&nms_padded));
}

}  // namespace ssd_cuda
