// nms and batched_nms on the CPU; the schemas of the family.
#include "nms/nms_op.h"
#include "nms_stripes.h"

namespace ssd_cuda {
namespace {

// The indices of the boxes that are kept, to make(how many).
template <typename Settings, typename Make>
void keep_boxes(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                const Settings& settings, int64_t max_output, const Make& make) {
  check_nms(boxes, scores, idxs, max_output);
  const int64_t n = boxes.size(0);
  const Tensor box = dense(boxes, 1), score = dense(scores, 1);
  const auto idx = dense_or_none(idxs, 1);
  const auto with_keys = [&](const auto& prepared) {
    dispatch_floating(score.scalar_type(), "nms", [&](auto zero) {
      const auto* values = in<decltype(zero)>(score);
      std::vector<decltype(nms::rank_key(zero))> keys(n);
      parallel_grains(n, 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) keys[i] = nms::rank_key(values[i]);
      });
      nms::kept_indices(prepared, keys, max_output, make);
    });
  };
  dispatch_floating(box.scalar_type(), "nms", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    const auto rule = suppress_rule_of<T>(settings);
    with_keys(nms::Boxes<T>(in<S>(box), in<int64_t>(idx), n, rule));
  });
}

// -> int64 [kept]
Tensor nms_indices(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                   const NmsSettings& settings) {
  Tensor result;
  keep_boxes(boxes, scores, idxs, settings, std::numeric_limits<int64_t>::max(),
             [&](int64_t count) {
               result = empty_on(boxes, {count}, ScalarType::Long);
               return out<int64_t>(result);
             });
  return result;
}

// -> int64 [max_output] padded with -1, int64 []
std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& idxs,
                                      const NmsPaddedSettings& settings) {
  const int64_t max_output = settings.max_output;
  Tensor result, count;
  keep_boxes(boxes, scores, idxs, settings, max_output, [&](int64_t kept) {
    result = empty_on(boxes, {max_output}, ScalarType::Long);
    count = empty_on(boxes, {}, ScalarType::Long);
    *out<int64_t>(count) = kept;
    std::fill(out<int64_t>(result) + kept, out<int64_t>(result) + max_output, -1);
    return out<int64_t>(result);
  });
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
