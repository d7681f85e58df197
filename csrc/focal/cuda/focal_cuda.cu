// Bindings of the focal loss for CUDA tensors.
#include "common/torch/planned.h"
#include "focal.cuh"
#include "focal/focal_op.h"

namespace ssd_cuda {
namespace {

template <typename S>
RowsView<const S> rows_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2)};
}

struct RunOnCard {
  static void check(const Tensor& conf) { check_fits_card(conf); }
  template <typename S>
  static constexpr bool kWithGradients = false;

  template <typename S>
  static void forward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                      const FocalRule<acc_t<S>>& rule, const FocalOutputs<acc_t<S>>& outputs,
                      const Gradients*) {
    const CudaScope scope(conf);
    const auto [memory, plan] =
        planned<FocalPlan<S, acc_t<S>>>(conf, inputs<S>(loc, conf, targets, rule), outputs);
    check_cuda(launch_focal(plan, scope.stream()), "focal_loss");
  }
  // All of both is written.
  template <typename S>
  static Tensor gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return torch::stable::new_empty(like, size, like.scalar_type());
  }
  template <typename S>
  static Tensor loc_gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return torch::stable::new_empty(like, size, like.scalar_type());
  }
  template <typename S>
  static void backward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                       const FocalRule<acc_t<S>>& rule, const FocalSaved<acc_t<S>>& saved,
                       const Tensor& d_loc, const Tensor& d_conf) {
    const CudaScope scope(conf);
    const FocalBackwardArgs<S, acc_t<S>> args{
        inputs<S>(loc, conf, targets, rule),
        saved,
        {out<S>(d_loc), d_loc.stride(0), d_loc.stride(1), d_loc.stride(2)},
        out<S>(d_conf)};
    check_cuda(launch_focal_backward(args, scope.stream()), "focal_loss_backward");
  }

 private:
  template <typename S>
  static FocalInputs<S, acc_t<S>> inputs(const Tensor& loc, const Tensor& conf,
                                         const Targets<acc_t<S>>& targets,
                                         const FocalRule<acc_t<S>>& rule) {
    return {.loc = rows_of<S>(loc),
            .conf = rows_of<S>(conf),
            .targets = targets,
            .rule = rule,
            .images = conf.size(0),
            .width = conf.size(1),
            .rows_inner = is_channels_first(conf)};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CUDA, m) { implement_focal<RunOnCard>(m); }

}  // namespace ssd_cuda
