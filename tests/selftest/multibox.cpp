// The multibox family, forward and backward.
#include "multibox/cpu/multibox_loss.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

constexpr int64_t kImages = 3, kWidth = 530, kTruths = 12;

// A batch with its memory: logits [B, P, K], or [B, K, P] when channels_first.
template <typename S>
struct Problem {
  using T = acc_t<S>;
  std::vector<S> conf, loc;
  std::vector<Vec4<T>> truths = boxes<T>(31, kTruths), priors = centers<T>(32, kWidth);
  std::vector<int64_t> labels;
  std::vector<int32_t> codes;
  std::vector<T> weights;
  int32_t offsets[kImages + 1] = {0, 5, 5, kTruths};
  bool channels_first;

  Problem(int64_t classes, bool first)
      : conf(numbers<S>(33, kImages * kWidth * classes, 8, 4000)),
        loc(numbers<S>(34, kImages * kWidth * 4, 3)),
        channels_first(first) {
    Random random(35);
    for (int64_t c = 0; c < classes; ++c) weights.push_back(T(c + 1) / 8);
    for (int64_t i = 0; i < kTruths; ++i) labels.push_back(1 + random.below(classes - 1));
    for (int64_t i = 0; i < kImages * kWidth; ++i) {
      const int64_t image = i / kWidth, own = offsets[image + 1] - offsets[image];
      const bool other = random.below(20) == 0;
      codes.push_back(!other ? -1 : own > 0 ? static_cast<int32_t>(random.below(own)) : -2);
    }
  }
  Logits<S> view(const std::vector<S>& data, int64_t columns) const {
    return {data.data(), kWidth * columns, channels_first ? 1 : columns,
            channels_first ? kWidth : 1, columns};
  }
  // general: with class weights, smoothed labels and a loss of boxes.
  Batch<S> batch(int64_t classes, bool general) const {
    Batch<S> batch{};
    batch.conf = view(conf, classes);
    batch.loc = view(loc, 4);
    batch.targets = {.codes = codes.data(),
                     .boxes = truths.data(),
                     .labels = labels.data(),
                     .offsets = offsets,
                     .priors = priors.data(),
                     .variances = nullptr,
                     .variance = {T(0.1), T(0.1), T(0.2), T(0.2)},
                     .num_boxes = kTruths,
                     .width = kWidth,
                     .own_priors = false,
                     .format = BoxFormat::kCxcywh};
    batch.rule.label.num_classes = classes;
    batch.rule.mining = {.ratio = 3, .min_negatives = 1};
    batch.rule.loss = {.beta = 1, .loc_factor = 1, .clamp = true};
    batch.images = kImages;
    batch.width = kWidth;
    if (!general) return batch;
    batch.targets.terms = {.weights = weights.data(), .kept = T(0.9), .spread = T(0.1 / classes)};
    batch.class_total = batch.targets.terms.total(classes);
    batch.rule.loss.loc = LocLoss::kCiou;
    batch.rule.loss.key = MiningKey::kBackground;
    return batch;
  }
};

template <typename S>
void loss(int64_t classes, bool channels_first, bool general = false) {
  using T = acc_t<S>;
  const Problem<S> problem(classes, channels_first);
  const Batch<S> batch = problem.batch(classes, general);
  std::vector<Ordered<T>> keys(kImages * kWidth);
  std::vector<int64_t> cuts(2 * kImages);
  T losses[2];
  int64_t positives;
  std::vector<T> scales(kImages);
  run_forward(batch, {&losses[0], &losses[1], &positives, keys.data(), cuts.data(), scales.data()});
  const std::string name = std::to_string(classes) +
                           (channels_first ? "_channels_first" : "_channels_last") +
                           (general ? "_general" : "");
  report(("multibox_" + name).c_str(), kTypeName<S>,
         Hash().add(keys).add(cuts).add(losses, 2).add(&positives, 1).add(scales));
  std::vector<S> d_conf(problem.conf.size(), S(0.0f)), d_loc(problem.loc.size(), S(0.0f));
  const T grad_loc(1.5), grad_conf(0.75);
  run_backward(batch, {keys.data(), cuts.data(), scales.data(), &grad_loc, &grad_conf},
               problem.view(d_loc, 4), problem.view(d_conf, classes));
  report(("multibox_backward_" + name).c_str(), kTypeName<S>, Hash().add(d_conf).add(d_loc));
}

template <typename S>
void losses() {
  for (int64_t classes : {2, 3, 7, 8, 21, 33}) {
    loss<S>(classes, false);
    loss<S>(classes, true);
    loss<S>(classes, false, true);
  }
}

}  // namespace

void multibox_family() {
  losses<float>();
  losses<double>();
  losses<Half>();
  losses<BFloat16>();
}

}  // namespace selftest
