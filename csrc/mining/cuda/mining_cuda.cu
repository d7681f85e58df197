// Bindings of the mining family for CUDA tensors.
#include "mining.cuh"
#include "mining/mining_op.h"

namespace ssd_cuda {
namespace {

KeyType key_type(const Tensor& keys) {
  switch (keys.scalar_type()) {
    case ScalarType::Double:
      return KeyType::kDouble;
    case ScalarType::Half:
      return KeyType::kHalf;
    case ScalarType::BFloat16:
      return KeyType::kBFloat16;
    default:
      return KeyType::kFloat;
  }
}

// See mining_cpu.cpp for the shapes.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> top_k_threshold(const Tensor& keys_in,
                                                                   const Tensor& k_in) {
  check_top_k(keys_in, k_in);
  const CudaScope scope(keys_in);
  const Tensor keys = dense(keys_in), k = dense(k_in);
  const int64_t batch = keys.size(0), width = keys.size(1);
  const bool wide = keys.scalar_type() == ScalarType::Double;
  Tensor threshold = empty_on(keys, {batch}, keys.scalar_type());
  Tensor tie = empty_on(keys, {batch}, ScalarType::Long);
  Tensor count = empty_on(keys, {batch}, ScalarType::Long);
  Tensor sum = empty_on(keys, {batch}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  const TopKArgs args{.keys = keys.const_data_ptr(),
                      .type = key_type(keys),
                      .k = in<int64_t>(k),
                      .batch = batch,
                      .width = width,
                      .threshold = threshold.mutable_data_ptr(),
                      .tie_index = out<int64_t>(tie),
                      .count = out<int64_t>(count),
                      .sum = sum.mutable_data_ptr(),
                      .mask = out<bool>(mask)};
  check_cuda(
      wide ? launch_top_k<double>(args, scope.stream()) : launch_top_k<float>(args, scope.stream()),
      "top_k_threshold");
  return {threshold, tie, count, sum, mask};
}

Tensor select_hard_negatives(const Tensor& keys_in, const Tensor& positive_in,
                             const std::optional<Tensor>& candidates_in,
                             const MiningSettings& settings) {
  check_hard_negatives(keys_in, positive_in, candidates_in);
  const CudaScope scope(keys_in);
  const Tensor keys = dense(keys_in), positive = dense(positive_in);
  const auto candidates = candidates_in ? std::optional(dense(*candidates_in)) : std::nullopt;
  const int64_t batch = keys.size(0), width = keys.size(1);
  Tensor mask = empty_on(keys, {batch, width}, ScalarType::Bool);
  const HardNegativeArgs args{.keys = keys.const_data_ptr(),
                              .type = key_type(keys),
                              .positive = in<bool>(positive),
                              .candidate = in<bool>(candidates),
                              .rule = mining_rule(settings),
                              .batch = batch,
                              .width = width,
                              .mask = out<bool>(mask)};
  check_cuda(args.type == KeyType::kDouble ? launch_hard_negatives<double>(args, scope.stream())
                                           : launch_hard_negatives<float>(args, scope.stream()),
             "select_hard_negatives");
  return mask;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) {
  m.impl("top_k_threshold", SSD_BOX(&top_k_threshold));
  m.impl("select_hard_negatives", SSD_BOX(&select_hard_negatives));
}

}  // namespace ssd_cuda
