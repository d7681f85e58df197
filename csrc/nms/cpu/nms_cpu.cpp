// nms and batched_nms on the CPU; the schemas of the family.
#include "nms/nms_op.h"
#include "nms_sort.h"
#include "nms_sweep.h"

namespace ssd_cuda {
namespace {

template <typename Settings>
std::vector<int64_t> kept_indices(const Tensor& boxes, const Tensor& scores,
                                  const std::optional<Tensor>& idxs, const Settings& settings,
                                  int64_t max_output) {
  check_nms(boxes, scores, idxs, max_output);
  const int64_t n = boxes.size(0);
  std::vector<int64_t> keep;
  if (n == 0) return keep;
  const Tensor box = dense(boxes, 1), score = dense(scores, 1);
  const auto idx = dense_or_none(idxs, 1);
  std::vector<uint32_t> order(n);
  dispatch_floating(score.scalar_type(), "nms", [&](auto zero) {
    using S = decltype(zero);
    nms::score_order<acc_t<S>>(in<S>(score), n, order.data());
  });
  dispatch_floating(box.scalar_type(), "nms", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const auto rule = suppress_rule_of<T>(settings);
    nms::Sweep<T>(in<S>(box), in<int64_t>(idx), n, order.data(), rule).run(max_output, keep);
  });
  return keep;
}

// -> int64 [kept]
Tensor nms_indices(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                   const NmsSettings& settings) {
  const std::vector<int64_t> keep =
      kept_indices(boxes, scores, idxs, settings, std::numeric_limits<int64_t>::max());
  const auto count = static_cast<int64_t>(keep.size());
  Tensor result = empty_on(boxes, {count}, ScalarType::Long);
  std::copy(keep.begin(), keep.end(), out<int64_t>(result));
  return result;
}

// -> int64 [max_output] padded with -1, int64 []
std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& idxs,
                                      const NmsPaddedSettings& settings) {
  const int64_t max_output = settings.max_output;
  const std::vector<int64_t> keep = kept_indices(boxes, scores, idxs, settings, max_output);
  Tensor result = empty_on(boxes, {max_output}, ScalarType::Long);
  Tensor count = empty_on(boxes, {}, ScalarType::Long);
  int64_t* end = std::copy(keep.begin(), keep.end(), out<int64_t>(result));
  std::fill(end, out<int64_t>(result) + max_output, -1);
  *out<int64_t>(count) = static_cast<int64_t>(keep.size());
  return {result, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  constexpr const char* kTensors = "Tensor boxes, Tensor scores, Tensor? idxs";
  define_op<NmsSettings>(m, "nms", kTensors, "Tensor");
  define_op<NmsPaddedSettings>(m, "nms_padded", kTensors, "(Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("nms", SSD_BOX(&nms_indices));
  m.impl("nms_padded", SSD_BOX(&nms_padded));
}

}  // namespace ssd_cuda
