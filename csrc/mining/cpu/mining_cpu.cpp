// Per-row selection with a different k in every row, on the CPU; the schemas of the family.
#include "mining/mining_op.h"
#include "mining_rows.h"

namespace ssd_cuda {
namespace {

// keys: [B, P], k: int64 [B] -> threshold [B], tie index int64 [B], count int64 [B], sum [B], mask bool [B, P].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> top_k_threshold(const Tensor& keys_in,
                                                                   const Tensor& k_in) {
  check_top_k(keys_in, k_in);
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
    select_rows<S>(
        in<S>(keys), in<int64_t>(ks), batch, width,
        {out<S>(threshold), out<int64_t>(tie), out<int64_t>(count), out<T>(sum), out<bool>(mask)});
  });
  return {threshold, tie, count, sum, mask};
}

// keys: [B, P], positive: bool [B, P], candidates: bool [B, P] or none -> bool [B, P].
Tensor select_hard_negatives(const Tensor& keys_in, const Tensor& positive_in,
                             const std::optional<Tensor>& candidates_in,
                             const MiningSettings& settings) {
  check_hard_negatives(keys_in, positive_in, candidates_in);
  const Tensor keys = dense(keys_in), positives = dense(positive_in);
  const auto candidates = candidates_in ? std::optional(dense(*candidates_in)) : std::nullopt;
  const int64_t batch = keys.size(0), width = keys.size(1);
  Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  dispatch_floating(keys.scalar_type(), "select_hard_negatives", [&](auto zero) {
    using S = decltype(zero);
    select_negative_rows(mining_rule(settings), in<S>(keys), in<bool>(positives),
                         candidates ? in<bool>(*candidates) : nullptr, batch, width,
                         out<bool>(mask));
  });
  return mask;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "top_k_threshold(Tensor keys, Tensor k) -> (Tensor threshold, Tensor tie_index, Tensor "
      "count, Tensor sum, Tensor mask)");
  define_op<MiningSettings>(m, "select_hard_negatives",
                            "Tensor keys, Tensor positive, Tensor? candidates", "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("top_k_threshold", SSD_BOX(&top_k_threshold));
  m.impl("select_hard_negatives", SSD_BOX(&select_hard_negatives));
}

}  // namespace ssd_cuda
