// nms for CUDA tensors. The sort is torch's stable one on integer keys: exact order for every score, no wait.
#include <array>

#include "common/torch/torch_api.h"
#include "nms.cuh"

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

// int64 [N]: the box of each rank.
Tensor score_order(const Tensor& scores, cudaStream_t stream) {
  const int64_t n = scores.numel();
  Tensor keys;
  dispatch_floating(scores.scalar_type(), "nms", [&](auto zero) {
    using S = decltype(zero);
    using Key = std::conditional_t<std::is_same_v<S, double>, int64_t, int32_t>;
    keys = empty_on(scores, {n}, sizeof(Key) == 8 ? ScalarType::Long : ScalarType::Int);
    check_cuda(launch_nms_keys<S, acc_t<S>, Key>(in<S>(scores), n, out<Key>(keys), stream), "nms");
  });
  return std::get<1>(stable_sort(keys));
}

// int64 [N]: the rank at each place of the (class, rank) order.
Tensor class_order(const Tensor& idxs, const Tensor& order, cudaStream_t stream) {
  const int64_t n = order.numel();
  Tensor classes = empty_on(order, {n}, ScalarType::Long);
  check_cuda(
      launch_nms_classes(in<int64_t>(idxs), in<int64_t>(order), n, out<int64_t>(classes), stream),
      "nms");
  return std::get<1>(stable_sort(classes));
}

struct Removed {
  Tensor removed, order;
  std::optional<Tensor> place_of;
};

template <typename S>
Removed run_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                const SuppressRule<acc_t<S>>& rule, cudaStream_t stream) {
  using T = acc_t<S>;
  const int64_t n = boxes.size(0), panels = nms_panels(n);
  const ScalarType real = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  Removed result{empty_on(boxes, {n}, ScalarType::Byte), score_order(scores, stream), std::nullopt};
  std::optional<Tensor> rank_at, classes;
  if (idxs) {
    rank_at = class_order(*idxs, result.order, stream);
    classes = empty_on(boxes, {n}, ScalarType::Long);
    result.place_of = empty_on(boxes, {n}, ScalarType::Int);
  }
  Tensor sorted = empty_on(boxes, {n, 4}, real);
  Tensor needed = empty_on(boxes, {n}, ScalarType::Long);
  Tensor arrived = empty_on(boxes, {panels}, ScalarType::Int);
  const NmsGather<S, T> gather{.boxes = in<S>(boxes),
                               .idxs = in<int64_t>(idxs),
                               .order = in<int64_t>(result.order),
                               .rank_at = in<int64_t>(rank_at),
                               .sorted_boxes = out<T>(sorted),
                               .sorted_classes = idxs ? out<int64_t>(*classes) : nullptr,
                               .place_of = idxs ? out<int32_t>(*result.place_of) : nullptr,
                               .removed = out<uint8_t>(result.removed),
                               .needed = out<unsigned long long>(needed),
                               .arrived = out<uint32_t>(arrived),
                               .n = n};
  check_cuda(launch_nms_gather<S, T>(gather, stream), "nms");
  Tensor mask = empty_on(boxes, {nms_mask_words(n)}, ScalarType::Int);
  Tensor kept = empty_on(boxes, {2 * kNmsPanel, 4}, real);
  Tensor kept_count = empty_on(boxes, {panels}, ScalarType::Int);
  const NmsArgs<T> args{.boxes = in<T>(sorted),
                        .classes = in<int64_t>(classes),
                        .removed = out<uint8_t>(result.removed),
                        .mask = out<uint32_t>(mask),
                        .needed = out<unsigned long long>(needed),
                        .kept = out<T>(kept),
                        .kept_count = out<int32_t>(kept_count),
                        .arrived = out<uint32_t>(arrived),
                        .n = n,
                        .rule = rule};
  check_cuda(launch_nms<T>(args, stream), "nms");
  return result;
}

// -> int64 [max_output] padded with -1, int64 []
std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& idxs, double iou_threshold,
                                      bool inclusive, double iou_eps, double pixel_offset,
                                      int64_t max_output) {
  const CudaScope scope(boxes);
  const int64_t n = boxes.size(0);  // below 2^31 - 1: ops/nms.py
  const Tensor box = dense(boxes), score = dense(scores);
  const auto idx = idxs ? std::optional(dense(*idxs)) : std::nullopt;
  Tensor keep = empty_on(box, {max_output}, ScalarType::Long);
  Tensor count = empty_on(box, {}, ScalarType::Long);
  NmsOutput output{nullptr, nullptr,   nullptr, out<int64_t>(keep), out<int64_t>(count),
                   n,       max_output};
  Removed state;
  if (n > 0) {
    dispatch_floating(box.scalar_type(), "nms", [&](auto zero) {
      using S = decltype(zero);
      const auto rule = suppress_rule<acc_t<S>>(iou_threshold, inclusive, iou_eps, pixel_offset);
      state = run_nms<S>(box, score, idx, rule, scope.stream());
    });
    output.removed = in<uint8_t>(state.removed);
    output.order = in<int64_t>(state.order);
    output.place_of = in<int32_t>(state.place_of);
  }
  check_cuda(launch_nms_compact(output, scope.stream()), "nms");
  return {keep, count};
}

// -> int64 [kept]; waits for the device to learn the size of its result.
Tensor nms_indices(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                   double iou_threshold, bool inclusive, double iou_eps, double pixel_offset) {
  const auto [keep, count] = nms_padded(boxes, scores, idxs, iou_threshold, inclusive, iou_eps,
                                        pixel_offset, boxes.size(0));
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
  m.impl("nms", TORCH_BOX(&nms_indices));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace ssd_cuda
