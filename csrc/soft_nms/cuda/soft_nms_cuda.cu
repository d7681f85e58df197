// soft-NMS, DIoU-NMS and matrix NMS for CUDA tensors.
#include "common/torch/planned.h"
#include "matrix_nms.cuh"
#include "soft_nms.cuh"
#include "soft_nms/soft_nms_op.h"

namespace ssd_cuda {
namespace {

struct RunOnCard {
  template <typename T, typename Rule>
  static void run(const ScoredBoxes<T>& of, const Rule& rule, const KeptRows<T>& to,
                  const Tensor& where) {
    const CudaScope scope(where);
    auto [memory, args] = planned<ChooseArgs<T, Rule>>(where, of.n);
    fill(args, of, rule);
    args.rows = to.rows;
    check_cuda(launch_choose(args, to.keep, to.scores, to.count, scope.stream()), "soft_nms");
  }
  template <typename T>
  static void run(const ScoredBoxes<T>& of, const MatrixRule<T>& rule, const KeptRows<T>& to,
                  const Tensor& where) {
    const CudaScope scope(where);
    auto [memory, args] = planned<MatrixNmsArgs<T>>(where, of.n);
    fill(args, of, rule);
    check_cuda(launch_matrix_nms(args, to.rows, to.keep, to.scores, to.count, scope.stream()),
               "matrix_nms");
  }

 private:
  template <typename Args, typename T, typename Rule>
  static void fill(Args& args, const ScoredBoxes<T>& of, const Rule& rule) {
    args.rule = rule;
    args.boxes = of.boxes;
    args.scores = of.scores;
    args.idxs = of.idxs;
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { implement_soft_nms<RunOnCard>(m); }

}  // namespace ssd_cuda
