// Per-row selection with a different k in every row, on the CPU; the schemas of the family.
#include "common/torch/torch_api.h"
#include "row_selector.h"

namespace ssd_cuda {
namespace {

// keys: [B, P], k: int64 [B] -> threshold [B], tie index int64 [B], count int64 [B], sum [B], mask bool [B, P].
// The sum adds in index order in double.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> top_k_threshold(const Tensor& keys_in,
                                                                   const Tensor& k_in) {
  const Tensor keys = dense(keys_in), ks = dense(k_in);
  const int64_t batch = keys.size(0), width = keys.size(1);
  const auto wide =
      keys.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor threshold = empty_on(keys, {batch}, keys.scalar_type());
  Tensor tie = empty_on(keys, {batch}, ScalarType::Long);
  Tensor count = empty_on(keys, {batch}, ScalarType::Long);
  Tensor sum = empty_on(keys, {batch}, wide);
  Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  dispatch_floating(keys.scalar_type(), "top_k_threshold", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
      RowSelector<Ordered<T>> selector;
      std::vector<Ordered<T>> ordered(width);
      for (int64_t b = begin; b < end; ++b) {
        const S* row = in<S>(keys) + b * width;
        bool* marks = out<bool>(mask) + b * width;
        order_keys(row, width, ordered.data());
        const auto cut = selector.select(ordered.data(), width, in<int64_t>(ks)[b]);
        mark_selected(ordered.data(), width, cut, marks);
        double total = 0;
        int64_t selected = 0;
        for_each_marked(marks, width, [&](int64_t i) {
          total += static_cast<T>(row[i]);
          ++selected;
        });
        out<S>(threshold)[b] = static_cast<S>(cut.tie < 0 ? std::numeric_limits<T>::infinity()
                                                          : key_value<T>(cut.threshold));
        out<int64_t>(tie)[b] = cut.tie;
        out<int64_t>(count)[b] = selected;
        out<T>(sum)[b] = static_cast<T>(total);
      }
    });
  });
  return {threshold, tie, count, sum, mask};
}

// keys: [B, P], positive: bool [B, P], candidates: bool [B, P] or none -> bool [B, P].
Tensor select_hard_negatives(const Tensor& keys_in, const Tensor& positive_in,
                             const std::optional<Tensor>& candidates_in, double ratio,
                             bool round_up, int64_t min_negatives, int64_t cap, bool zero_fill) {
  const Tensor keys = dense(keys_in), positives = dense(positive_in);
  const auto candidates = candidates_in ? std::optional(dense(*candidates_in)) : std::nullopt;
  const int64_t batch = keys.size(0), width = keys.size(1);
  const MiningRule rule{static_cast<float>(ratio), round_up, min_negatives,
                        static_cast<MiningRule::Cap>(cap), zero_fill};
  Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  dispatch_floating(keys.scalar_type(), "select_hard_negatives", [&](auto zero) {
    using S = decltype(zero);
    using T = acc_t<S>;
    using U = Ordered<T>;
    torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
      RowSelector<U> selector;
      std::vector<U> ordered(width);
      for (int64_t b = begin; b < end; ++b) {
        const bool* positive = in<bool>(positives) + b * width;
        const bool* candidate = candidates ? in<bool>(*candidates) + b * width : nullptr;
        order_keys(in<S>(keys) + b * width, width, ordered.data());
        int64_t num_candidates = 0;
        for (int64_t i = 0; candidate != nullptr && i < width; ++i) {
          num_candidates += candidate[i] && !positive[i];
          if (!candidate[i]) ordered[i] = kExcluded<U>;
        }
        int64_t num_positives = 0;
        for_each_marked(positive, width, [&](int64_t i) {
          ordered[i] = positive_key<T>(rule);
          ++num_positives;
        });
        if (candidate == nullptr) num_candidates = width - num_positives;
        const int64_t k = num_hard_negatives(rule, num_positives, num_candidates, width);
        const auto cut = selector.select(ordered.data(), width, k);
        mark_selected(ordered.data(), width, cut, out<bool>(mask) + b * width);
      }
    });
  });
  return mask;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "top_k_threshold(Tensor keys, Tensor k) -> (Tensor threshold, Tensor tie_index, Tensor "
      "count, "
      "Tensor sum, Tensor mask)");
  m.def(
      "select_hard_negatives(Tensor keys, Tensor positive, Tensor? candidates, float ratio, "
      "bool round_up, int min_negatives, int cap, bool zero_fill) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("top_k_threshold", TORCH_BOX(&top_k_threshold));
  m.impl("select_hard_negatives", TORCH_BOX(&select_hard_negatives));
}

}  // namespace ssd_cuda
