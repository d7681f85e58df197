// The options of the focal loss and what they make of one prior, for the CPU and the CUDA kernels.
//
// Targets, normaliser and localisation are those of the MultiBox loss; every row that is not ignored counts. The sums of a
// batch have one order on every device: see kFocalChunk and kFocalLanes.
#pragma once

#include "common/math/focal_math.h"
#include "multibox/multibox_rule.h"

namespace ssd_cuda {

enum class FocalForm : int { kSigmoid = 0, kSoftmax = 1 };
template <>
struct Choice<FocalForm> {
  static constexpr std::array<const char*, 2> kWords{"sigmoid", "softmax"};
};

enum class FocalBackground : int { kFirst = 0, kLast = 1, kNone = 2 };
template <>
struct Choice<FocalBackground> {
  static constexpr std::array<const char*, 3> kWords{"first", "last", "none"};
};

#define SSD_FOCAL_OPTIONS(X)                                                 \
  SSD_ENCODE_OPTIONS(X)                                                      \
  X(FocalForm, form)                                                         \
  X(double, alpha_positive) /* of the label's column; softmax: of its row */ \
  X(double, alpha_negative)                                                  \
  X(double, gamma)                                                           \
  X(FocalBackground, background)                                             \
  X(int64_t, label_offset)                                                   \
  X(bool, has_ignore)                                                        \
  X(int64_t, ignore_label)                                                   \
  X(ZeroLabel, zero_label)                                                   \
  X(Normalizer, normalizer)                                                  \
  X(bool, clamp_normalizer)                                                  \
  X(double, beta)       /* 0 for L1 */                                       \
  X(double, loc_factor) /* loc_weight, over 4 for the mean of the coordinates */

SSD_OPTION_STRUCT(FocalSettings, SSD_FOCAL_OPTIONS);

// Of the forward, which may also give the gradients that a backward with factors of 1 asks for.
#define SSD_FOCAL_FORWARD_OPTIONS(X) \
  SSD_FOCAL_OPTIONS(X)               \
  X(bool, with_gradients)

SSD_OPTION_STRUCT(FocalForwardSettings, SSD_FOCAL_FORWARD_OPTIONS);

template <typename T>
struct FocalRule {
  bool softmax;
  FocalTerm<T> term;
  LabelRule label;
  LossRule loss;
};

// Of either's settings.
template <typename T, typename Settings>
inline FocalRule<T> focal_rule(const Settings& settings, int64_t num_classes) {
  FocalRule<T> rule{.softmax = settings.form == FocalForm::kSoftmax,
                    .term = {.gamma = static_cast<T>(settings.gamma),
                             .alpha_positive = static_cast<T>(settings.alpha_positive),
                             .alpha_negative = static_cast<T>(settings.alpha_negative),
                             .power = -1},
                    .label = {},
                    .loss = {}};
  for (int power = 0; power <= 2; ++power) {
    if (settings.gamma == power) rule.term.power = power;
  }
  rule.label.num_classes = num_classes;
  rule.label.background = settings.background == FocalBackground::kFirst  ? 0
                          : settings.background == FocalBackground::kLast ? num_classes - 1
                                                                          : -1;
  rule.label.offset = settings.label_offset;
  rule.label.ignore = settings.ignore_label;
  rule.label.has_ignore = settings.has_ignore;
  rule.label.zero_label = settings.zero_label;
  rule.loss.beta = settings.beta;
  rule.loss.loc_factor = settings.loc_factor;
  rule.loss.normalizer = settings.normalizer;
  rule.loss.clamp = settings.clamp_normalizer;
  return rule;
}

// The column of a row that is true: of its label; of a negative the background in the softmax form, none in the other.
constexpr int32_t kNoColumn = -1, kIgnoredColumn = -2, kBadColumn = -3;  // bad: the label is none

template <typename T>
SSD_HOST_DEVICE int32_t true_column(Row row, const FocalRule<T>& rule) {
  if (row.kind == RowKind::kIgnored) return kIgnoredColumn;
  if (row.kind == RowKind::kPositive) return row.label < 0 ? kBadColumn : row.label;
  return rule.softmax ? static_cast<int32_t>(rule.label.background) : kNoColumn;
}

// Whether the true column of a row of the softmax form is that of a positive.
template <typename T>
SSD_HOST_DEVICE bool is_positive_column(int32_t column, const FocalRule<T>& rule) {
  return column != static_cast<int32_t>(rule.label.background);
}

// One coordinate at a time, as in the MultiBox loss; without loc_factor.
template <typename T>
SSD_HOST_DEVICE double localization_term(Vec4<T> difference, T beta) {
  return static_cast<double>(smooth_l1(difference.x, beta)) + smooth_l1(difference.y, beta) +
         smooth_l1(difference.z, beta) + smooth_l1(difference.w, beta);
}

// Logits of an image in the order of memory, cut into chunks. Loss j of a chunk is added to partial sum j mod 32, in
// order; the partial sums, in double, are joined upper half to lower half.
constexpr int64_t kFocalChunk = 1024;

// The parts of an image's loss: the chunks of the sigmoid form, the rows of the softmax form.
inline int64_t focal_parts(bool softmax, int64_t width, int64_t classes) {
  return softmax ? width : (width * classes + kFocalChunk - 1) / kFocalChunk;
}

// Numbers of an image, in double: number i is added to partial sum i mod 1024, in order; these are joined 32 at a time,
// upper half to lower half.
constexpr int64_t kFocalLanes = 1024;

template <typename T>
struct FocalOutputs {
  T* localization;         // []
  T* classification;       // []
  int64_t* num_positives;  // []
  int32_t* columns;        // [B, P]
  T* stats;  // [3, B, P] of the softmax form: largest logit, 1 / sum exp(x - largest), factor of the gradient
  T* scales;  // [B]
};

// What the backward gets beside the inputs.
template <typename T>
struct FocalSaved {
  const int32_t* columns;  // [B, P]
  const T* stats;          // [3, B, P] or null
  const T* scales;         // [B]
  const T* grad_loc;       // []
  const T* grad_conf;      // []
};

}  // namespace ssd_cuda
