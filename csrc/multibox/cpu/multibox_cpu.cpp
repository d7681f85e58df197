// The fused MultiBox loss on the CPU; the schemas of the family.
#include "matching/cpu/match_call.h"
#include "multibox/multibox_op.h"
#include "multibox_loss.h"

namespace ssd_cuda {
namespace {

template <typename S>
Logits<S> logits_of(const Tensor& t) {
  return {in<S>(t), t.stride(0), t.stride(1), t.stride(2), t.size(2)};
}

struct RunOnCpu {
  static void check(const Tensor&) {}

  template <typename S>
  static void forward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                      const MultiBoxRule& rule, const LossOutputs<acc_t<S>>& outputs,
                      const std::optional<Tensor>&) {
    run_forward(batch<S>(loc, conf, targets, rule), outputs);
  }
  template <typename S, typename... Batch>
  static void match_and_forward(const MatchProblem<acc_t<S>>& problem, const Batch&... batch) {
    MatchCall<acc_t<S>>(problem).run();
    forward<S>(batch...);
  }
  // Few rows of them are written.
  template <typename S>
  static Tensor zeros(const Tensor& like, const std::vector<int64_t>& size) {
    return zeros_for_rows(like, size, like.scalar_type(), sizeof(S));
  }
  template <typename S>
  static Tensor zeros_of_forward(const Tensor& like, const std::vector<int64_t>& size) {
    return zeros<S>(like, size);
  }
  template <typename S>
  static Tensor loc_gradient(const Tensor& like, const std::vector<int64_t>& size) {
    return zeros<S>(like, size);
  }
  template <typename S>
  static void backward(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                       const MultiBoxRule& rule, const LossSelection<acc_t<S>>& selection,
                       const Tensor& d_loc, const Tensor& d_conf) {
    run_backward(batch<S>(loc, conf, targets, rule), selection, logits_of<S>(d_loc),
                 logits_of<S>(d_conf));
  }

 private:
  template <typename S>
  static Batch<S> batch(const Tensor& loc, const Tensor& conf, const Targets<acc_t<S>>& targets,
                        const MultiBoxRule& rule) {
    return {.conf = logits_of<S>(conf),
            .loc = logits_of<S>(loc),
            .targets = targets,
            .rule = rule,
            .images = conf.size(0),
            .width = conf.size(1),
            .class_total = targets.terms.total(conf.size(2))};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  const std::string predictions = "Tensor loc, Tensor conf, ";
  const std::string batch =
      predictions +
      "Tensor codes, Tensor boxes, Tensor? labels, Tensor? offsets, Tensor? priors, "
      "Tensor? variances, Tensor? class_weights";
  const std::string truths =
      predictions +
      "Tensor boxes, Tensor labels, Tensor offsets, Tensor priors, Tensor? variances, "
      "Tensor? class_weights";
  const std::string selection = "Tensor keys, Tensor cuts, Tensor scales";
  const std::string gradients = "Tensor grad_loc, Tensor grad_conf, ";
  const std::string found = "Tensor localization, Tensor classification, Tensor num_positives, " +
                            selection + ", Tensor zeros";
  define_op<MultiBoxForwardSettings>(m, "multibox_loss", batch, "(" + found + ")");
  define_op<MatchLossSettings>(m, "multibox_match_loss", truths, "(" + found + ", Tensor codes)");
  define_op<MultiBoxSettings>(m, "multibox_loss_backward", gradients + batch + ", " + selection,
                              "(Tensor, Tensor)");
  define_op<MultiBoxSettings>(m, "multibox_loss_backward_into",
                              gradients + batch + ", " + selection + ", Tensor(a!) d_conf",
                              "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) { implement_multibox<RunOnCpu>(m); }

}  // namespace ssd_cuda
