// The nms and the detect family.
#include "detect/cpu/cpu_detect.h"
#include "nms/cpu/nms_stripes.h"
#include "selftest.h"

namespace selftest {
namespace {

using namespace ssd_cuda;

template <typename S>
void nms_of(const char* kind, int64_t count, int64_t odd_every, double pixel) {
  using T = acc_t<S>;
  const auto wide = boxes<double>(41, count, odd_every);
  std::vector<S> flat;
  for (const auto& b : wide) {
    for (double side : {b.x, b.y, b.z, b.w}) flat.push_back(S(side * (pixel > 0 ? 300 : 1)));
  }
  const std::vector<S> scores = numbers<S>(42, count, 1, 30);
  std::vector<int64_t> classes;
  for (int64_t i = 0; i < count; ++i) classes.push_back(i % 3);
  std::vector<decltype(nms::rank_key(S{}))> keys;
  for (S score : scores) keys.push_back(nms::rank_key(score));
  const nms::Boxes<T> all(flat.data(), classes.data(), count,
                          suppress_rule<T>(0.5, false, 0, pixel));
  for (threads = 1; threads <= 3; ++threads) {  // whole, and in stripes
    std::vector<int64_t> keep;
    nms::kept_indices(all, keys, std::numeric_limits<int64_t>::max(), [&](int64_t kept) {
      keep.resize(kept);
      return keep.data();
    });
    report((std::string("nms_") + kind).c_str(), kTypeName<S>, Hash().add(keys).add(keep));
  }
  threads = 1;
}

template <typename S>
void detect(const char* kind, ScoreKind scores, bool soft, int64_t classes) {
  using T = acc_t<S>;
  constexpr int64_t kImages = 2, kPriors = 700, kRows = 60;
  const auto loc = numbers<S>(51, kImages * kPriors * 4, 3),
             conf = numbers<S>(52, kImages * kPriors * classes, 5, 900);
  const auto priors = centers<T>(53, kPriors);
  DetectOptions<T> options{.scores = scores,
                           .score_threshold = T(0.02),
                           .skip_below = 0,
                           .top_k = 100,
                           .rule = suppress_rule<T>(0.45, false),
                           .soft = {T(soft ? 0.5 : 0), false},
                           .class_agnostic = false,
                           .first_label = 1,
                           .last_label = classes,
                           .rows = kRows,
                           .variance = {T(0.1), T(0.1), T(0.2), T(0.2)},
                           .clamp = {T(INFINITY), false},
                           .format = BoxFormat::kCxcywh,
                           .clip = ClipKind::kAfter,
                           .clip_width = 1,
                           .clip_height = 1};
  options.skip_below = make_skip_below(options, classes);
  const DetectInputs<T, S> inputs{.loc = {loc.data(), kPriors * 4, 4, 1},
                                  .conf = {conf.data(), kPriors * classes, classes, 1},
                                  .priors = priors.data(),
                                  .prior_image_rows = 0,
                                  .images = kImages,
                                  .num_priors = kPriors,
                                  .num_classes = classes};
  std::vector<Vec4<T>> found(kImages * kRows);
  std::vector<T> values(kImages * kRows);
  std::vector<int64_t> labels(kImages * kRows), indices(kImages * kRows), counts(kImages);
  const DetectOutputs<T> outputs{found.data(), values.data(), labels.data(), indices.data(),
                                 counts.data()};
  CpuDetect<T, S>(options, inputs, outputs).run();
  report((std::string("detect_") + kind).c_str(), kTypeName<S>,
         Hash().add(found).add(values).add(labels).add(indices).add(counts));
}

template <typename S>
void nms_all() {
  nms_of<S>("few", 90, 12, 0);
  nms_of<S>("grid", 3000, 40, 0);
  nms_of<S>("pixels", 1500, 40, 1);
  nms_of<S>("stripes", 9000, 0, 0);
}

template <typename S>
void detect_all() {
  detect<S>("softmax", ScoreKind::kSoftmax, false, 21);
  detect<S>("softmax_soft", ScoreKind::kSoftmax, true, 6);
  detect<S>("sigmoid", ScoreKind::kSigmoid, false, 35);
  detect<S>("given", ScoreKind::kGiven, false, 4);
}

}  // namespace

void nms_family() {
  nms_all<float>();
  nms_all<double>();
  nms_all<Half>();
  nms_all<BFloat16>();
}

void detect_family() {
  detect_all<float>();
  detect_all<double>();
  detect_all<Half>();
  detect_all<BFloat16>();
}

}  // namespace selftest
