// What the ops of mining demand, for both devices.
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

}  // namespace ssd_cuda
