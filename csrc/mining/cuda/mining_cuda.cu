// Bindings of the mining family for CUDA tensors.
#include "common/torch/planned.h"
#include "mining.cuh"
#include "mining/mining_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <typename S>
  static void top_k(const S* keys, const int64_t* ks, int64_t batch, int64_t width,
                    const SelectedRows<S>& to, const Tensor& where) {
    const CudaScope scope(where);
    check_cuda(launch_top_k(keys, ks, batch, width, to, scope.stream()), "top_k_threshold");
  }
  template <typename S>
  static void hard_negatives(const MiningRule& rule, const S* keys, const bool* positives,
                             const bool* candidates, int64_t batch, int64_t width, bool* mask,
                             const Tensor& where) {
    const CudaScope scope(where);
    const auto [memory, plan] =
        planned<HardNegativePlan<S>>(where, rule, keys, positives, candidates, batch, width, mask);
    check_cuda(launch_hard_negatives(plan, scope.stream()), "select_hard_negatives");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { implement_mining<RunOnCard>(m); }

}  // namespace ssd_cuda
