// The fusion family.
#include "fusion/cpu/fuse_image.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

template <typename T>
void fuse(const char* kind, FusedScore confidence, double threshold) {
  constexpr int64_t kImages = 2, kModels = 3, kCount = kModels * 90, kRows = 200;
  const auto all = boxes<T>(81, kImages * kCount, 30);
  const std::vector<T> scores = numbers<T>(82, kImages * kCount, 1, 25);
  std::vector<int64_t> classes;
  for (int64_t i = 0; i < kImages * kCount; ++i) classes.push_back(i % 4 - 1);
  const std::vector<T> weights{T(2), T(1), T(0.5)};
  FusionSettings settings;
  settings.weights = {2, 1, 0.5};
  settings.iou_thr = threshold;
  settings.conf_type = confidence;
  const FusionInputs<T> inputs{all.data(),     scores.data(), classes.data(), nullptr,
                               weights.data(), kImages,       kCount};
  std::vector<Vec4<T>> fused(kImages * kRows);
  std::vector<T> values(kImages * kRows);
  std::vector<int64_t> labels(kImages * kRows), counts(kImages), clusters(kImages * kCount);
  fuse_images(fusion_rule<T>(settings, kCount), inputs,
              FusionOutputs<T>{fused.data(), values.data(), labels.data(), counts.data(),
                               clusters.data(), kRows});
  report(kind, kTypeName<T>, Hash().add(fused).add(values).add(labels).add(counts).add(clusters));
}

template <typename T>
void rules() {
  fuse<T>("fusion_avg", FusedScore::kAvg, 0.3);
  fuse<T>("fusion_absent", FusedScore::kAbsentModel, 0.1);
}

}  // namespace

void fusion_family() {
  rules<float>();
  rules<double>();
}

}  // namespace selftest
