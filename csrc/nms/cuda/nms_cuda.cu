// nms for CUDA tensors. The sort is torch's stable one on integer keys: exact order for every score, no wait.
#include <array>

#include "common/torch/planned.h"
#include "nms.cuh"
#include "nms/nms_op.h"

namespace ssd_cuda {
namespace {

// (values, indices) of torch.sort(keys, stable=True).
std::tuple<Tensor, Tensor> stable_sort(const Tensor& keys) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t{0}),
                                    from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// The state of every box in score order, and that order.
struct Decided {
  Tensor workspace, order;
  const uint8_t* states;
};

template <typename S>
Decided decide(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
               const SuppressRule<acc_t<S>>& rule, cudaStream_t stream) {
  using T = acc_t<S>;
  const int64_t n = boxes.size(0);
  const auto plan = planned<NmsArgs<T>>(boxes, NmsPlan(n), n, idxs.has_value(), rule);
  const NmsArgs<T>& args = plan.args;
  Tensor order;
  dispatch_floating(scores.scalar_type(), "nms", [&](auto zero) {
    using Score = decltype(zero);
    using Key = std::conditional_t<std::is_same_v<Score, double>, int64_t, int32_t>;
    const Tensor keys =
        empty_on(scores, {n}, sizeof(Key) == 8 ? ScalarType::Long : ScalarType::Int);
    check_cuda(launch_nms_keys<Score, acc_t<Score>, Key>(in<Score>(scores), n, out<Key>(keys),
                                                         args.counters, stream),
               "nms");
    order = std::get<1>(stable_sort(keys));
  });
  const NmsInput<S> input{in<S>(boxes), in<int64_t>(idxs), in<int64_t>(order)};
  check_cuda(launch_nms(input, args, stream), "nms");
  return {plan.memory, order, args.states};
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
      decided = decide<S>(box, score, idx, rule, scope.stream());
    });
    output.states = decided.states;
    output.order = in<int64_t>(decided.order);
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
