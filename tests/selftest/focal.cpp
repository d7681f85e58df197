// The focal family, forward and backward.
#include "focal/cpu/focal_loss.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

constexpr int64_t kImages = 3, kWidth = 150;

// Ready targets: a class for every prior, 0 the background, -1 ignored.
template <typename S>
void loss(int64_t classes, bool channels_first, bool softmax, double gamma) {
  using T = acc_t<S>;
  const auto conf = numbers<S>(71, kImages * kWidth * classes, 8, 4000);
  const auto loc = numbers<S>(72, kImages * kWidth * 4, 3);
  const auto codes = boxes<T>(73, kImages * kWidth);
  std::vector<int64_t> labels;
  Random random(74);
  for (int64_t i = 0; i < kImages * kWidth; ++i) {
    labels.push_back(random.below(8) == 0 ? random.below(classes + 1) - 1 : 0);
  }
  const auto view = [&](const std::vector<S>& data, int64_t columns) {
    return Logits<S>{data.data(), kWidth * columns, channels_first ? 1 : columns,
                     channels_first ? kWidth : 1, columns};
  };
  FocalSettings settings;
  settings.form = softmax ? FocalForm::kSoftmax : FocalForm::kSigmoid;
  settings.alpha_positive = 0.25, settings.alpha_negative = 0.75;
  settings.gamma = gamma;
  settings.has_ignore = true, settings.ignore_label = -1;
  settings.normalizer = Normalizer::kBatch;
  settings.clamp_normalizer = true;
  settings.beta = 1, settings.loc_factor = 1;
  Targets<T> targets{};
  targets.boxes = codes.data();
  targets.labels = labels.data();
  targets.width = kWidth;
  const FocalBatch<S> batch{.loc = view(loc, 4),
                            .conf = {view(conf, classes), kWidth},
                            .targets = targets,
                            .rule = focal_rule<T>(settings, classes),
                            .images = kImages,
                            .width = kWidth};
  T losses[2];
  int64_t positives;
  std::vector<int32_t> columns(kImages * kWidth);
  std::vector<T> stats(softmax ? 3 * kImages * kWidth : 0), scales(kImages);
  const FocalOutputs<T> outputs{&losses[0],     &losses[1],   &positives,
                                columns.data(), stats.data(), scales.data()};
  run_focal(batch, outputs, {});
  const std::string name = std::string(softmax ? "softmax_" : "sigmoid_") +
                           std::to_string(classes) +
                           (channels_first ? "_channels_first" : "_channels_last");
  report(("focal_" + name).c_str(), kTypeName<S>,
         Hash().add(losses, 2).add(&positives, 1).add(columns).add(stats).add(scales));
  std::vector<S> d_conf(conf.size(), S(0.0f)), d_loc(loc.size(), S(0.0f));
  const T grad_loc(1.5), grad_conf(0.75);
  run_focal_backward(batch, {columns.data(), stats.data(), scales.data(), &grad_loc, &grad_conf},
                     view(d_loc, 4), d_conf.data());
  report(("focal_backward_" + name).c_str(), kTypeName<S>, Hash().add(d_conf).add(d_loc));
  if constexpr (std::is_same_v<S, float>) {
    std::fill(d_conf.begin(), d_conf.end(), 0.0f);
    std::fill(d_loc.begin(), d_loc.end(), 0.0f);
    run_focal(batch, outputs, {view(d_loc, 4), d_conf.data()});
    report(("focal_gradients_" + name).c_str(), kTypeName<S>,
           Hash().add(losses, 2).add(stats).add(d_conf).add(d_loc));
  }
}

template <typename S>
void losses() {
  for (int64_t classes : {2, 7, 21, 33}) {
    for (bool channels_first : {false, true}) {
      loss<S>(classes, channels_first, false, classes == 7 ? 1.3 : 2);
      loss<S>(classes, channels_first, true, classes == 7 ? 1.3 : 2);
    }
  }
}

}  // namespace

void focal_family() {
  losses<float>();
  losses<double>();
  losses<Half>();
  losses<BFloat16>();
}

}  // namespace selftest
