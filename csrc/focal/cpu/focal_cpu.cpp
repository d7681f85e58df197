// The focal loss on the CPU; the schemas of the family.
#include "focal/focal_op.h"
#include "focal_loss.h"

namespace ssd_cuda {
namespace {

template <typename S>
Logits<S> logits_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2), t.size(2)};
}

struct RunOnCpu {
  static void check(const Tensor&) {}
  // A half gradient would be rounded before the factor of the loss is known, a GradScaler's 2^16.
  template <typename S>
  static constexpr bool kWithGradients = std::is_same_v<S, float>;

  template <typename S>
  static void forward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                      const FocalRule<acc_t<S>>& rule, const FocalOutputs<acc_t<S>>& outputs,
                      const Gradients* gradients) {
    FocalGradients<S> to{};
    if (gradients != nullptr) to = {logits_of<S>(gradients->loc), out<S>(gradients->conf)};
    run_focal(batch<S>(loc, conf, targets, rule), outputs, to);
  }
  // All of it is written; what the system gives comes in large pages.
  template <typename S>
  static Tensor gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return zeros_for_rows(like, size, like.scalar_type(), sizeof(S));
  }
  template <typename S>
  static Tensor loc_gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return zeros_for_rows(like, size, like.scalar_type(), sizeof(S));
  }
  template <typename S>
  static void backward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                       const FocalRule<acc_t<S>>& rule, const FocalSaved<acc_t<S>>& saved,
                       const Tensor& d_loc, const Tensor& d_conf) {
    run_focal_backward(batch<S>(loc, conf, targets, rule), saved, logits_of<S>(d_loc),
                       out<S>(d_conf));
  }

 private:
  template <typename S>
  static FocalBatch<S> batch(const Tensor& loc, const Tensor& conf,
                             const Targets<acc_t<S>>& targets, const FocalRule<acc_t<S>>& rule) {
    return {.loc = logits_of<S>(loc),
            .conf = {logits_of<S>(conf), conf.size(1)},
            .targets = targets,
            .rule = rule,
            .images = conf.size(0),
            .width = conf.size(1)};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  const std::string batch =
      "Tensor loc, Tensor conf, Tensor codes, Tensor boxes, Tensor? labels, Tensor? offsets, "
      "Tensor? priors, Tensor? variances";
  const std::string saved = "Tensor columns, Tensor stats, Tensor scales";
  define_op<FocalForwardSettings>(
      m, "focal_loss", batch,
      "(Tensor localization, Tensor classification, Tensor num_positives, " + saved +
          ", Tensor d_loc, Tensor d_conf)");
  define_op<FocalSettings>(m, "focal_loss_backward",
                           "Tensor grad_loc, Tensor grad_conf, " + batch + ", " + saved,
                           "(Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { implement_focal<RunOnCpu>(m); }

}  // namespace ssd_cuda
