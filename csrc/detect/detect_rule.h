// What the CPU and the CUDA kernels of detect share: the options, the views of the inputs and the box of a candidate.
#pragma once

#include <limits>
#include <type_traits>
#include <vector>

#include "boxes/boxes_rule.h"
#include "nms/nms_rule.h"
#include "soft_nms/soft_nms_rule.h"

namespace ssd_cuda {

enum class ScoreKind : int { kSoftmax = 0, kSigmoid = 1, kGiven = 2 };
enum class ClipKind : int { kNone = 0, kBefore = 1, kAfter = 2 };
template <>
struct Choice<ScoreKind> {
  static constexpr std::array<const char*, 3> kWords{"softmax", "sigmoid", "given"};
};
template <>
struct Choice<ClipKind> {
  static constexpr std::array<const char*, 3> kWords{"none", "before", "after"};
};

#define SSD_DETECT_OPTIONS(X)                                             \
  X(ScoreKind, scores)                                                    \
  X(Doubles, score_threshold) /* one for all columns, or one a column */  \
  X(int64_t, top_k)           /* INT64_MAX: no limit */                   \
  X(Doubles, iou_threshold)   /* likewise */                              \
  SSD_OVERLAP_OPTIONS(X)                                                  \
  SSD_SOFT_OPTIONS(X)                                                     \
  X(bool, class_agnostic)                                                 \
  X(int64_t, first_label) /* foreground columns, last_label is the end */ \
  X(OpenInt, last_label)                                                  \
  X(OpenInt, rows)                                                        \
  SSD_DECODE_OPTIONS(X)                                                   \
  X(ClipKind, clip)                                                       \
  X(Numbers<2>, clip_size) /* width, height */                            \
  X(bool, channels_first)  /* loc [B, 4, P], conf [B, C, P] */

SSD_OPTION_STRUCT(DetectSettings, SSD_DETECT_OPTIONS);

// The thresholds of one column, as DetectOptions has those of all.
template <typename T>
struct alignas(4 * sizeof(T)) ClassRule {
  T score_threshold, iou_threshold, surely_above, surely_below;
};

// T is the arithmetic type, float or double. "No limit" of top_k is INT64_MAX.
template <typename T>
struct DetectOptions {
  ScoreKind scores;
  T score_threshold;  // a candidate's score is > this; with `classes` the least of the foreground's
  T skip_below;       // see make_skip_below
  int64_t top_k;      // candidates kept per list: a class, or the image when class_agnostic
  SuppressRule<T> rule;
  SoftDecay<T> soft;  // sigma 0: hard NMS
  bool class_agnostic;
  int64_t first_label, last_label;  // foreground columns [first_label, last_label)
  int64_t rows;                     // K: rows of the padded output
  Vec4<T> variance;
  LogClamp<T> clamp;
  BoxFormat format;
  ClipKind clip;
  T clip_width, clip_height;
  const ClassRule<T>* classes = nullptr;  // [C], or null: the columns have the same thresholds
  bool rules_differ = false;              // in their iou_threshold

  SSD_HOST_DEVICE T score_threshold_of(int64_t label) const {
    return classes == nullptr ? score_threshold : classes[label].score_threshold;
  }
  // list: of lists()
  SSD_HOST_DEVICE SuppressRule<T> rule_of(int64_t list) const {
    SuppressRule<T> own = rule;
    if (classes != nullptr) {
      const ClassRule<T> found = classes[first_label + list];
      own.threshold = found.iou_threshold;
      own.surely_above = found.surely_above, own.surely_below = found.surely_below;
    }
    return own;
  }
  SSD_HOST_DEVICE bool is_soft() const { return soft.sigma > 0; }
  SSD_HOST_DEVICE int64_t labels() const { return last_label - first_label; }
  // Lists in which NMS runs: one per foreground class, or one.
  SSD_HOST_DEVICE int64_t lists() const {
    return class_agnostic ? (labels() > 0 ? 1 : 0) : labels();
  }
};

// A row has no candidate when all its foreground numbers are below this; softmax: below x[background] + this. -inf: do
// not look. The score of such a number is below the threshold by far more than rounding.
template <typename T>
inline T make_skip_below(const DetectOptions<T>& options, int64_t num_classes) {
  const T t = options.score_threshold;
  if (options.scores == ScoreKind::kGiven) return t;
  if (!(t > 0)) return -std::numeric_limits<T>::infinity();
  if (options.scores == ScoreKind::kSigmoid) {
    // Near 1 the rounding of 1 + exp(-x) moves x.
    const T below =
        std::log(t / (1 - t)) - T(1e-3) - 8 * std::numeric_limits<T>::epsilon() / (1 - t);
    return t < 1 ? below : std::numeric_limits<T>::infinity();
  }
  // The score of a foreground number is at most exp(x - x[background]).
  const bool background = options.first_label > 0 || options.last_label < num_classes;
  return background ? std::log(t) - T(1e-3) : -std::numeric_limits<T>::infinity();
}

// A threshold in the arithmetic of the scores. The largest double stands for +inf, its negative for -inf: an exported program
// can hold no infinity.
template <typename T>
inline T score_threshold_as(double threshold) {
  constexpr double kLargest = std::numeric_limits<double>::max();
  if (threshold >= kLargest) return std::numeric_limits<T>::infinity();
  if (threshold <= -kLargest) return -std::numeric_limits<T>::infinity();
  return static_cast<T>(threshold);
}

// The thresholds of each column where they differ; else none.
template <typename T>
inline std::vector<ClassRule<T>> class_rules(const DetectSettings& settings, int64_t num_classes) {
  const Doubles &scores = settings.score_threshold, &ious = settings.iou_threshold;
  if (scores.size() == 1 && ious.size() == 1) return {};
  std::vector<ClassRule<T>> rules(static_cast<std::size_t>(num_classes));
  for (std::size_t c = 0; c < rules.size(); ++c) {
    const auto rule = suppress_rule_of<T>(settings, ious[ious.size() == 1 ? 0 : c]);
    rules[c] = {score_threshold_as<T>(scores[scores.size() == 1 ? 0 : c]), rule.threshold,
                rule.surely_above, rule.surely_below};
  }
  return rules;
}

// rules: of class_rules; they must outlive the options.
template <typename T>
inline DetectOptions<T> detect_options(const DetectSettings& settings, int64_t num_classes,
                                       const std::vector<ClassRule<T>>& rules) {
  DetectOptions<T> options{.scores = settings.scores,
                           .score_threshold = score_threshold_as<T>(settings.score_threshold[0]),
                           .skip_below = 0,
                           .top_k = settings.top_k,
                           .rule = suppress_rule_of<T>(settings, settings.iou_threshold[0]),
                           .soft = soft_decay_of<T>(settings),
                           .class_agnostic = settings.class_agnostic,
                           .first_label = settings.first_label,
                           .last_label = settings.last_label,
                           .rows = settings.rows,
                           .variance = vec4<T>(settings.variance),
                           .clamp = log_clamp<T>(settings),
                           .format = box_format(settings.xyxy),
                           .clip = settings.clip,
                           .clip_width = T(settings.clip_size[0]),
                           .clip_height = T(settings.clip_size[1]),
                           .classes = rules.empty() ? nullptr : rules.data(),
                           .rules_differ = settings.iou_threshold.size() > 1};
  if (!rules.empty()) {
    options.score_threshold = std::numeric_limits<T>::infinity();
    for (int64_t c = options.first_label; c < options.last_label; ++c) {
      const T own = rules[c].score_threshold;
      if (own < options.score_threshold) options.score_threshold = own;
    }
  }
  options.skip_below = make_skip_below(options, num_classes);
  return options;
}

// A strided view of [B, P, columns], in elements.
template <typename S>
struct RowView {
  const S* data;
  int64_t image_stride, row_stride, column_stride;
  SSD_HOST_DEVICE const S* row(int64_t image, int64_t prior) const {
    return data + image * image_stride + prior * row_stride;
  }
};

// T: arithmetic, S: storage of loc and conf.
template <typename T, typename S>
struct DetectInputs {
  RowView<S> loc;         // [B, P, 4]
  RowView<S> conf;        // [B, P, C]
  const Vec4<T>* priors;  // [P, 4], or [B, P, 4] when prior_image_rows = P
  int64_t prior_image_rows;
  const T*
      clip_sizes;  // [B, 2] width, height of the clip window of each image; null: that of the options
  int64_t images, num_priors, num_classes;

  SSD_HOST_DEVICE Vec4<T> code(int64_t image, int64_t prior) const {
    const S* row = loc.row(image, prior);
    const int64_t step = loc.column_stride;
    return {static_cast<T>(row[0]), static_cast<T>(row[step]), static_cast<T>(row[2 * step]),
            static_cast<T>(row[3 * step])};
  }
  SSD_HOST_DEVICE Vec4<T> prior(int64_t image, int64_t prior) const {
    return priors[image * prior_image_rows + prior];
  }
};

// [B, K] results; the boxes are x1, y1, x2, y2.
template <typename T>
struct DetectOutputs {
  Vec4<T>* boxes;          // [B, K, 4]
  T* scores;               // [B, K]
  int64_t* labels;         // [B, K], -1 past the count
  int64_t* prior_indices;  // [B, K], -1 past the count
  int64_t* counts;         // [B]
};

// A candidate is one number that sorts in ascending order into (score descending, label ascending, prior
// ascending); its index is label * num_priors + prior, below 2^32 (the wrapper checks).
template <typename T>
using CandidateKey = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;

SSD_HOST_DEVICE uint64_t candidate_key(float score, uint32_t index) {
  return order_key(score, index);
}
SSD_HOST_DEVICE unsigned __int128 candidate_key(double score, uint32_t index) {
  return (static_cast<unsigned __int128>(~ordered_key(score)) << 32) | index;
}
SSD_HOST_DEVICE uint32_t candidate_index(uint64_t key) { return static_cast<uint32_t>(key); }
SSD_HOST_DEVICE uint32_t candidate_index(unsigned __int128 key) {
  return static_cast<uint32_t>(key);
}

// The score that a key was made of (-0 comes back as +0); NaN for ~0.
SSD_HOST_DEVICE float candidate_score(uint64_t key) {
  return key_value<float>(~static_cast<uint32_t>(key >> 32));
}
SSD_HOST_DEVICE double candidate_score(unsigned __int128 key) {
  return key_value<double>(~static_cast<uint64_t>(key >> 32));
}

template <typename T, typename S>
SSD_HOST_DEVICE Vec4<T> clip_to_image(const DetectOptions<T>& options,
                                      const DetectInputs<T, S>& inputs, int64_t image,
                                      Vec4<T> box) {
  if (inputs.clip_sizes == nullptr) return clip_box(box, options.clip_width, options.clip_height);
  return clip_box(box, inputs.clip_sizes[2 * image], inputs.clip_sizes[2 * image + 1]);
}

// The box that NMS sees, of a code and a prior that have been read.
template <typename T, typename S>
SSD_HOST_DEVICE Vec4<T> candidate_box(const DetectOptions<T>& options,
                                      const DetectInputs<T, S>& inputs, int64_t image, Vec4<T> code,
                                      Vec4<T> prior) {
  const Vec4<T> center = prior_center(prior, options.format);
  const Vec4<T> box = decode_box(code, center, options.variance, options.clamp);
  return options.clip == ClipKind::kBefore ? clip_to_image(options, inputs, image, box) : box;
}
template <typename T, typename S>
SSD_HOST_DEVICE Vec4<T> candidate_box(const DetectOptions<T>& options,
                                      const DetectInputs<T, S>& inputs, int64_t image,
                                      int64_t prior) {
  return candidate_box(options, inputs, image, inputs.code(image, prior),
                       inputs.prior(image, prior));
}

// The box that the caller sees.
template <typename T, typename S>
SSD_HOST_DEVICE Vec4<T> output_box(const DetectOptions<T>& options,
                                   const DetectInputs<T, S>& inputs, int64_t image, Vec4<T> box) {
  return options.clip == ClipKind::kAfter ? clip_to_image(options, inputs, image, box) : box;
}

// Row k of an image's output; label: of the key, where it is known.
template <typename T, typename S>
SSD_HOST_DEVICE void write_row(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                               const DetectOutputs<T>& outputs, int64_t image, int64_t k,
                               CandidateKey<T> key, uint32_t label, Vec4<T> box) {
  const int64_t row = image * options.rows + k;
  const uint32_t priors = static_cast<uint32_t>(inputs.num_priors);
  outputs.boxes[row] = output_box(options, inputs, image, box);
  outputs.scores[row] = candidate_score(key);
  outputs.labels[row] = label;
  outputs.prior_indices[row] = candidate_index(key) - label * priors;
}
template <typename T, typename S>
SSD_HOST_DEVICE void write_row(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                               const DetectOutputs<T>& outputs, int64_t image, int64_t k,
                               CandidateKey<T> key, Vec4<T> box) {
  const uint32_t priors = static_cast<uint32_t>(inputs.num_priors);
  write_row(options, inputs, outputs, image, k, key, candidate_index(key) / priors, box);
}

template <typename T>
SSD_HOST_DEVICE void write_padding(const DetectOptions<T>& options, const DetectOutputs<T>& outputs,
                                   int64_t image, int64_t k) {
  const int64_t row = image * options.rows + k;
  outputs.boxes[row] = Vec4<T>{};
  outputs.scores[row] = 0;
  outputs.labels[row] = -1;
  outputs.prior_indices[row] = -1;
}

}  // namespace ssd_cuda
