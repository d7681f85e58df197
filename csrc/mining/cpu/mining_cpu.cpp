// Per-row selection with a different k in every row, on the CPU; the schemas of the family.
#include "mining/mining_op.h"
#include "mining_rows.h"

namespace ssd_cuda {
namespace {

struct RunOnCpu {
  template <typename S>
  static void top_k(const S* keys, const int64_t* ks, int64_t batch, int64_t width,
                    const SelectedRows<S>& to, const Tensor&) {
    select_rows(keys, ks, batch, width, to);
  }
  template <typename S>
  static void hard_negatives(const MiningRule& rule, const S* keys, const bool* positives,
                             const bool* candidates, int64_t batch, int64_t width, bool* mask,
                             const Tensor&) {
    select_negative_rows(rule, keys, positives, candidates, batch, width, mask);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def(
      "top_k_threshold(Tensor keys, Tensor k) -> (Tensor threshold, Tensor tie_index, Tensor "
      "count, Tensor sum, Tensor mask)");
  define_op<MiningSettings>(m, "select_hard_negatives",
                            "Tensor keys, Tensor positive, Tensor? candidates", "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { implement_mining<RunOnCpu>(m); }

}  // namespace ssd_cuda
