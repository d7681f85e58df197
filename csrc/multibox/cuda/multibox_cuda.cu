// Bindings of the MultiBox loss for CUDA tensors.
#include "common/torch/planned.h"
#include "matching/cuda/match_launch.cuh"
#include "multibox.cuh"
#include "multibox/multibox_op.h"

namespace ssd_cuda {
namespace {

template <typename S>
RowsView<const S> rows_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2)};
}
template <typename S>
RowsView<S> rows_to(const Tensor& t) {
  return {out<S>(t), t.stride(0), t.stride(1), t.stride(2)};
}

struct RunOnCard {
  static void check(const Tensor& conf) { check_fits_card(conf); }

  template <typename S>
  static void forward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                      const MultiBoxRule& rule, const LossOutputs<acc_t<S>>& outputs,
                      const std::optional<Tensor>& zeros) {
    const CudaScope scope(conf);
    const auto [memory, plan] = planned_loss<S>(loc, conf, targets, rule, outputs, zeros);
    check_cuda(launch_loss(plan, scope.stream()), "multibox_loss");
  }
  template <typename S>
  static void match_and_forward(const MatchProblem<acc_t<S>>& problem, const Tensor& loc,
                                const Tensor& conf, const Targets<acc_t<S>>& targets,
                                const MultiBoxRule& rule, const LossOutputs<acc_t<S>>& outputs,
                                const std::optional<Tensor>& zeros) {
    const CudaScope scope(conf);
    const MatchPlan how = plan_of_match(problem);
    const auto [match_memory, matching] = planned<MatchArgs<acc_t<S>>>(conf, problem, how);
    const auto [memory, plan] = planned_loss<S>(loc, conf, targets, rule, outputs, zeros);
    check_cuda(launch_planned_match(matching, how, scope.stream()), "match");
    check_cuda(launch_loss(plan, scope.stream(), how.blocks > 0), "multibox_loss");
  }
  // forward fills the zeros, backward all of d_loc.
  template <typename S>
  static Tensor zeros_of_forward(const Tensor& like, const std::vector<int64_t>& size) {
    return torch::stable::new_empty(like, size, like.scalar_type());
  }
  template <typename S>
  static Tensor zeros(const Tensor& like, const std::vector<int64_t>& size) {
    return torch::stable::new_zeros(like, size, like.scalar_type());
  }
  template <typename S>
  static Tensor loc_gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return torch::stable::new_empty(like, size, like.scalar_type());
  }
  template <typename S>
  static void backward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                       const MultiBoxRule& rule, const LossSelection<acc_t<S>>& selection,
                       const Tensor& d_loc, const Tensor& d_conf) {
    const CudaScope scope(conf);
    const BackwardArgs<S, acc_t<S>> args{
        inputs<S>(loc, conf, targets, rule), selection, {rows_to<S>(d_loc), rows_to<S>(d_conf)}};
    check_cuda(launch_backward(args, scope.stream()), "multibox_loss_backward");
  }

 private:
  template <typename S>
  static Planned<LossPlan<S, acc_t<S>>> planned_loss(const Tensor& loc, const Tensor& conf,
                                                     const Targets<acc_t<S>>& targets,
                                                     const MultiBoxRule& rule,
                                                     const LossOutputs<acc_t<S>>& outputs,
                                                     const std::optional<Tensor>& zeros) {
    return planned<LossPlan<S, acc_t<S>>>(conf, inputs<S>(loc, conf, targets, rule), outputs,
                                          zeros ? out<S>(*zeros) : nullptr);
  }
  template <typename S>
  static LossInputs<S, acc_t<S>> inputs(const Tensor& loc, const Tensor& conf,
                                        const Targets<acc_t<S>>& targets,
                                        const MultiBoxRule& rule) {
    return {.loc = rows_of<S>(loc),
            .conf = rows_of<S>(conf),
            .targets = targets,
            .rule = rule,
            .images = conf.size(0),
            .width = conf.size(1)};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { implement_multibox<RunOnCard>(m); }

}  // namespace ssd_cuda
