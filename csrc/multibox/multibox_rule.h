// The options of the MultiBox loss and what they make of one prior, for the CPU and the CUDA kernels.
#pragma once

#include "boxes/boxes_rule.h"
#include "common/math/iou_loss_math.h"
#include "common/math/loss_math.h"
#include "matching/matching_rule.h"
#include "mining/mining_rule.h"

namespace ssd_cuda {

// What a prior is. Localized ones count in the localisation loss and the normaliser; negatives and
// kLocalized are candidates of the mining.
enum class RowKind : int {
  kIgnored = 0,
  kNegative = 1,
  kLocalized = 2,  // matched to a label equal to the background: localised, yet mined as a negative
  kPositive = 3
};
SSD_HOST_DEVICE bool is_localized(RowKind kind) { return kind >= RowKind::kLocalized; }
SSD_HOST_DEVICE bool is_candidate(RowKind kind) {
  return kind == RowKind::kNegative || kind == RowKind::kLocalized;
}

enum class ZeroLabel : int { kBackground = 0, kLocalize = 1, kPositive = 2 };
template <>
struct Choice<ZeroLabel> {
  static constexpr std::array<const char*, 3> kWords{"background", "localize", "positive"};
};

struct LabelRule {
  int64_t num_classes;
  int64_t background;
  int64_t offset;
  int64_t ignore;
  bool has_ignore;
  bool rank_ignored;  // with the key 0, as positives are then too
  bool single_class;
  ZeroLabel zero_label;

  // The class that a given label stands for. Sums wrap, as torch's do.
  SSD_HOST_DEVICE int64_t class_of(int64_t label) const {
    return static_cast<int64_t>(static_cast<uint64_t>(label) + static_cast<uint64_t>(offset));
  }
  // The label by which the background is given.
  SSD_HOST_DEVICE int64_t given_background() const {
    return static_cast<int64_t>(static_cast<uint64_t>(background) - static_cast<uint64_t>(offset));
  }
};

enum class Normalizer : int {
  kSum = 0,       // none: the caller divides (a normaliser over processes)
  kBatch = 1,     // localized priors of the batch
  kPerImage = 2,  // localized priors of the image, then the mean over the images
  kSelected = 3,  // positives and selected negatives of the batch
  kMinOne = 4     // sum over the images of max(1, localized priors)
};

template <>
struct Choice<Normalizer> {
  static constexpr std::array<const char*, 5> kWords{"global", "batch", "per_image", "selected",
                                                     "batch_min_one"};
};

// What a negative is ranked by. With weights or smooth labels it need not be the loss that counts.
enum class MiningKey : int { kCrossEntropy = 0, kBackground = 1 };
template <>
struct Choice<MiningKey> {
  static constexpr std::array<const char*, 2> kWords{"ce", "background"};
};

template <>
struct Choice<LocLoss> {
  static constexpr std::array<const char*, 5> kWords{"smooth_l1", "l1", "giou", "diou", "ciou"};
};

struct LossRule {
  LocLoss loc;
  double beta;        // 0 for L1
  double loc_factor;  // loc_weight, over 4 for the mean of the coordinates
  Normalizer normalizer;
  bool clamp;
  bool positives_twice;
  MiningKey key;
};

struct MultiBoxRule {
  LabelRule label;
  MiningRule mining;
  LossRule loss;
};

#define SSD_MULTIBOX_OPTIONS(X)                                   \
  SSD_ENCODE_OPTIONS(X)                                           \
  X(bool, background_last) /* the background is the last class */ \
  X(int64_t, label_offset)                                        \
  X(bool, has_ignore)                                             \
  X(int64_t, ignore_label)                                        \
  X(bool, rank_ignored)                                           \
  X(bool, single_class)                                           \
  X(ZeroLabel, zero_label)                                        \
  SSD_MINING_OPTIONS(X)                                           \
  X(MiningKey, key)                                               \
  X(double, label_smoothing) /* of ClassTerms */                  \
  X(bool, positives_twice)                                        \
  X(Normalizer, normalizer)                                       \
  X(bool, clamp_normalizer)                                       \
  X(LocLoss, loc_loss)                                            \
  X(double, beta)       /* of smooth L1 */                        \
  X(double, loc_factor) /* loc_weight, over 4 for the mean of the coordinates */

SSD_OPTION_STRUCT(MultiBoxSettings, SSD_MULTIBOX_OPTIONS);

// Of the forward, which may also prepare the zeros of the gradient of the logits.
#define SSD_MULTIBOX_FORWARD_OPTIONS(X) \
  SSD_MULTIBOX_OPTIONS(X)               \
  X(bool, with_zeros)

SSD_OPTION_STRUCT(MultiBoxForwardSettings, SSD_MULTIBOX_FORWARD_OPTIONS);

// Of the forward that matches as well.
#define SSD_MATCH_LOSS_OPTIONS(X) \
  SSD_MATCH_RULE_OPTIONS(X)       \
  SSD_MULTIBOX_FORWARD_OPTIONS(X)

SSD_OPTION_STRUCT(MatchLossSettings, SSD_MATCH_LOSS_OPTIONS);

// Of either's settings.
template <typename Settings>
inline MultiBoxRule multibox_rule(const Settings& settings, int64_t num_classes) {
  return {.label = {.num_classes = num_classes,
                    .background = settings.background_last ? num_classes - 1 : 0,
                    .offset = settings.label_offset,
                    .ignore = settings.ignore_label,
                    .has_ignore = settings.has_ignore,
                    .rank_ignored = settings.rank_ignored,
                    .single_class = settings.single_class,
                    .zero_label = settings.zero_label},
          .mining = mining_rule(settings),
          .loss = {.loc = settings.loc_loss,
                   .beta = settings.loc_loss == LocLoss::kL1 ? 0.0 : settings.beta,
                   .loc_factor = settings.loc_factor,
                   .normalizer = settings.normalizer,
                   .clamp = settings.clamp_normalizer,
                   .positives_twice = settings.positives_twice,
                   .key = settings.key}};
}

// weights: [C] or null. Settings of a loss without smooth labels have none of them.
template <typename T, typename Settings>
inline ClassTerms<T> class_terms(const T* weights, const Settings& settings, int64_t num_classes) {
  if constexpr (!requires { settings.label_smoothing; })
    return {.weights = weights};
  else
    return {.weights = weights,
            .kept = static_cast<T>(1.0 - settings.label_smoothing),
            .spread = static_cast<T>(settings.label_smoothing / static_cast<double>(num_classes))};
}

// A prior as the cross entropy sees it. label is -1 where the given one is out of range: its loss is NaN.
struct Row {
  RowKind kind;
  int32_t label;
};

// What is stored of a prior: its code, or its ready label. Nothing is reckoned of it, so that a kernel can ask for it long
// before it looks.
struct Mark {
  int32_t code;
  int64_t label;
};

// The rows of boxes and labels of one image, from begin on.
struct OwnedBoxes {
  int32_t begin, end;
};

// The targets of a batch: match codes into ragged ground truth, or (codes null) ready class and box targets.
template <typename T>
struct Targets {
  const int32_t* codes;      // [B, P] or null
  const Vec4<T>* boxes;      // [G] x1, y1, x2, y2; ready targets: [B, P] box codes
  const int64_t* labels;     // [G]; ready targets: [B, P]
  const int32_t* offsets;    // [B + 1]
  const Vec4<T>* priors;     // [P] or [B, P]
  const Vec4<T>* variances;  // like priors, or null
  Vec4<T> variance;          // used where variances is null
  int64_t num_boxes;         // G
  int64_t width;             // P
  bool own_priors;           // priors are [B, P]
  BoxFormat format;
  ClassTerms<T> terms;

  // Whether the loss of a mined row is not what it is ranked by.
  SSD_HOST_DEVICE bool keeps_losses(const LossRule& rule) const {
    return rule.key == MiningKey::kBackground && terms.any();
  }

  // Row of boxes and labels that prior p of an image is matched to, -1 where its code names none of them.
  SSD_HOST_DEVICE int64_t ground_truth(int64_t image, int64_t p) const {
    return named_by(owned(image), codes[image * width + p]);
  }

  SSD_HOST_DEVICE OwnedBoxes owned(int64_t image) const {
    if (codes == nullptr) return {0, 0};
    return {offsets[image], offsets[image + 1]};
  }

  SSD_HOST_DEVICE Mark mark(int64_t image, int64_t p) const {
    Mark found{};
    if (codes != nullptr) {
      found.code = codes[image * width + p];
    } else {
      found.label = labels[image * width + p];
    }
    return found;
  }
  SSD_HOST_DEVICE Row row(int64_t image, int64_t p, const LabelRule& rule) const {
    return row(image, mark(image, p), rule);
  }
  SSD_HOST_DEVICE Row row(int64_t image, Mark mark, const LabelRule& rule) const {
    return row(owned(image), mark, rule);
  }
  SSD_HOST_DEVICE Row row(OwnedBoxes own, Mark mark, const LabelRule& rule) const {
    const int32_t background = static_cast<int32_t>(rule.background);
    if (codes == nullptr) return ready_row(mark.label, rule);
    if (mark.code < 0) {
      return {mark.code == -1 ? RowKind::kNegative : RowKind::kIgnored, background};
    }
    const int64_t g = named_by(own, mark.code);
    if (g < 0) return {RowKind::kPositive, -1};
    int64_t label = labels[g];
    if (rule.has_ignore && label == rule.ignore) return {RowKind::kIgnored, background};
    label = rule.class_of(label);
    if (label == rule.background && rule.zero_label != ZeroLabel::kPositive) {
      const bool localize = rule.zero_label == ZeroLabel::kLocalize;
      return {localize ? RowKind::kLocalized : RowKind::kNegative, background};
    }
    if (rule.single_class) label = 1;
    return {RowKind::kPositive, in_range(label, rule)};
  }

  // The loss of the box that loc of a localized prior stands for, and its gradient by loc. Of codes only: ready targets
  // have no boxes.
  template <typename Ops = ScalarOps>
  SSD_HOST_DEVICE Graded<T> box_loss(int64_t image, int64_t p, Vec4<T> loc, LocLoss kind) const {
    const int64_t g = ground_truth(image, p);
    const T nan = T(NAN);
    if (g < 0) return {nan, {nan, nan, nan, nan}};
    const int64_t prior = prior_row(image, p);
    const Vec4<T> center = prior_center(priors[prior], format);
    const Vec4<T> divisors = variances != nullptr ? variances[prior] : variance;
    const LogClamp<T> none{T(INFINITY), false};
    Graded<T> loss = iou_loss(decode_box<Ops>(loc, center, divisors, none), boxes[g], kind);
    loss.gradient = decode_box_backward<Ops>(loss.gradient, loc, center, divisors, none);
    return loss;
  }

  // The box code that loc of a localized prior should have.
  template <typename Ops = ScalarOps>
  SSD_HOST_DEVICE Vec4<T> loc_target(int64_t image, int64_t p) const {
    if (codes == nullptr) return boxes[image * width + p];
    const int64_t g = ground_truth(image, p);
    const T nan = T(NAN);
    if (g < 0) return {nan, nan, nan, nan};
    const int64_t prior = prior_row(image, p);
    return encode_box<Ops>(boxes[g], prior_center(priors[prior], format),
                           variances != nullptr ? variances[prior] : variance);
  }

 private:
  SSD_HOST_DEVICE int64_t named_by(OwnedBoxes own, int32_t code) const {
    const int64_t g = int64_t{own.begin} + code;
    return g >= 0 && g >= own.begin && g < own.end && g < num_boxes ? g : -1;
  }
  // Row of priors and variances of prior p of an image.
  SSD_HOST_DEVICE int64_t prior_row(int64_t image, int64_t p) const {
    return own_priors ? image * width + p : p;
  }
  SSD_HOST_DEVICE static int32_t in_range(int64_t label, const LabelRule& rule) {
    return label >= 0 && label < rule.num_classes ? static_cast<int32_t>(label) : -1;
  }
  // Ready class targets: what is neither ignored nor the background is positive.
  SSD_HOST_DEVICE static Row ready_row(int64_t label, const LabelRule& rule) {
    if (rule.has_ignore && label == rule.ignore) {
      return {RowKind::kIgnored, static_cast<int32_t>(rule.background)};
    }
    label = rule.class_of(label);
    if (label == rule.background) return {RowKind::kNegative, static_cast<int32_t>(label)};
    if (rule.single_class) label = 1;
    return {RowKind::kPositive, in_range(label, rule)};
  }
};

// The key of a row that is no negative. Among the keys 0 only the targets tell who is who.
template <typename T>
SSD_HOST_DEVICE Ordered<T> ignored_key(const LabelRule& rule) {
  return rule.rank_ignored ? ordered_key(T(0)) : kExcluded<Ordered<T>>;
}

// How often the cross entropy of row p counts.
template <typename U>
SSD_HOST_DEVICE int row_weight(RowKind kind, U key, int64_t p, RowCut<U> cut,
                               bool positives_twice) {
  if (kind == RowKind::kIgnored) return 0;
  const bool selected = is_selected(key, p, cut);
  if (kind == RowKind::kPositive) return positives_twice && selected ? 2 : 1;
  return selected ? 1 : 0;
}

// Sums over one image, or a tile of it: added in double, in a fixed order.
struct ImageSums {
  double loc;   // localisation terms of the localized rows
  double conf;  // cross entropies that count
  int64_t positives;
  int64_t localized;
  int64_t candidates;
  int64_t negatives;  // selected candidates

  SSD_HOST_DEVICE void add(const ImageSums& other) {
    loc += other.loc;
    conf += other.conf;
    positives += other.positives;
    localized += other.localized;
    candidates += other.candidates;
    negatives += other.negatives;
  }
};

// What the forward writes: the losses, and what lets the backward find the rows that count.
template <typename T>
struct LossOutputs {
  T* localization;         // []
  T* classification;       // []
  int64_t* num_positives;  // []
  Ordered<T>* keys;        // [B, P]
  int64_t* cuts;           // [B, 2] threshold and tie
  T* scales;               // [B]
};
// The same for the backward, with the gradients of the two losses.
template <typename T>
struct LossSelection {
  const Ordered<T>* keys;  // [B, P]
  const int64_t* cuts;     // [B, 2]
  const T* scales;         // [B]
  const T* grad_loc;       // []
  const T* grad_conf;      // []
};

// What the batch is divided by, one number per kind of normaliser.
struct Denominator {
  int64_t localized;
  int64_t selected;
  int64_t at_least_one;

  SSD_HOST_DEVICE void add(const ImageSums& image) {
    localized += image.localized;
    selected += image.positives + image.negatives;
    at_least_one += image.localized > 0 ? image.localized : 1;
  }
};

// The factor of one image's sums, 1 / N; 0 for an image without positives that would be divided by its own
// number. Infinite where N = 0 is not clamped: 0 / 0 is NaN in the loss then.
SSD_HOST_DEVICE double image_scale(const LossRule& rule, const Denominator& batch,
                                   int64_t localized, int64_t num_images) {
  if (rule.normalizer == Normalizer::kSum) return 1.0;
  if (rule.normalizer == Normalizer::kPerImage) {
    return localized > 0 ? 1.0 / (static_cast<double>(localized) * static_cast<double>(num_images))
                         : 0.0;
  }
  int64_t n = batch.localized;
  if (rule.normalizer == Normalizer::kSelected) n = batch.selected;
  if (rule.normalizer == Normalizer::kMinOne) n = batch.at_least_one;
  const bool clamp = rule.clamp || rule.normalizer == Normalizer::kMinOne;
  return 1.0 / static_cast<double>(clamp && n < 1 ? 1 : n);
}

// An image's share of a loss. The sum over the images adds it: rounded on its own, a card does not fuse the two.
SSD_HOST_DEVICE double image_share(double sum, double scale) {
  return scale == 0 ? 0.0 : mul_rn(sum, scale);
}

}  // namespace ssd_cuda
