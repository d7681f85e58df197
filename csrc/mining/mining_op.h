// The ops of mining for both devices: what they demand, their tensors, dispatch. A device says how, in a struct Run.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "mining_rule.h"

namespace ssd_cuda {

inline void check_keys(const Tensor& keys) {
  check_floating("keys", keys);
  check_size("keys", keys, {kAnySize, kAnySize});
  SSD_CHECK(keys.size(1) < (int64_t{1} << 31), "keys must have fewer than 2^31 in a row, got ",
            keys.size(1));
}

inline void check_top_k(const Tensor& keys, const Tensor& k) {
  check_keys(keys);
  check_tensor("k", k, ScalarType::Long, {keys.size(0)}, keys);
}

inline void check_hard_negatives(const Tensor& keys, const Tensor& positive,
                                 const std::optional<Tensor>& candidates) {
  check_keys(keys);
  check_tensor("positive", positive, ScalarType::Bool, {keys.size(0), keys.size(1)}, keys);
  check_tensor("candidates", candidates, ScalarType::Bool, {keys.size(0), keys.size(1)}, keys);
}

// keys: [B, P], k: int64 [B] -> threshold [B], tie index int64 [B], count int64 [B], sum [B], mask bool [B, P].
// Run::top_k(keys, ks, batch, width, selected rows, where)
template <typename Run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> top_k_threshold(const Tensor& keys_in,
                                                                   const Tensor& k_in) {
  check_top_k(keys_in, k_in);
  const Tensor keys = dense(keys_in), ks = dense(k_in);
  const int64_t batch = keys.size(0), width = keys.size(1);
  const Tensor threshold = empty_on(keys, {batch}, keys.scalar_type());
  const Tensor tie = empty_on(keys, {batch}, ScalarType::Long);
  const Tensor count = empty_on(keys, {batch}, ScalarType::Long);
  const Tensor sum = empty_on(keys, {batch}, wide_dtype(keys.scalar_type()));
  const Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  dispatch_floating(keys.scalar_type(), "top_k_threshold", [&](auto zero) {
    using S = decltype(zero);
    const SelectedRows<S> to{.threshold = out<S>(threshold),
                             .tie = out<int64_t>(tie),
                             .count = out<int64_t>(count),
                             .sum = out<acc_t<S>>(sum),
                             .mask = out<bool>(mask)};
    Run::top_k(in<S>(keys), in<int64_t>(ks), batch, width, to, keys);
  });
  return {threshold, tie, count, sum, mask};
}

// keys: [B, P], positive: bool [B, P], candidates: bool [B, P] or none -> bool [B, P].
// Run::hard_negatives(rule, keys, positives, candidates, batch, width, mask, where). A batch that is ranked as a whole is one
// row of all its keys: images come one after the other.
template <typename Run>
Tensor select_hard_negatives(const Tensor& keys_in, const Tensor& positive_in,
                             const std::optional<Tensor>& candidates_in,
                             const MiningSettings& settings) {
  check_hard_negatives(keys_in, positive_in, candidates_in);
  const Tensor keys = dense(keys_in), positives = dense(positive_in);
  const auto candidates = dense_or_none(candidates_in);
  const bool whole = settings.scope == MiningScope::kBatch;
  const int64_t batch = whole ? 1 : keys.size(0), width = whole ? keys.numel() : keys.size(1);
  SSD_CHECK(width < (int64_t{1} << 31),
            "keys must have fewer than 2^31 in a batch that is ranked as a whole, got ", width);
  const Tensor mask = empty_on(keys, {keys.size(0), keys.size(1)}, ScalarType::Bool);
  dispatch_floating(keys.scalar_type(), "select_hard_negatives", [&](auto zero) {
    using S = decltype(zero);
    Run::hard_negatives(mining_rule(settings), in<S>(keys), in<bool>(positives),
                        in<bool>(candidates), batch, width, out<bool>(mask), keys);
  });
  return mask;
}

template <typename Run, typename Library>
void implement_mining(Library& m) {
  m.impl("top_k_threshold", SSD_BOX(&top_k_threshold<Run>));
  m.impl("select_hard_negatives", SSD_BOX(&select_hard_negatives<Run>));
}

}  // namespace ssd_cuda
