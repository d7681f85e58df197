// The rules of mining, once for the CPU and the CUDA kernels: how many rows an image may select, and which.
#pragma once

#include "common/math/ordered_key.h"
#include "common/options.h"

namespace ssd_cuda {

// A row that may never be selected: below every number, -inf included.
template <typename U>
constexpr U kExcluded = 0;

// The selection of one row: the keys above threshold, and those equal to it up to index tie.
template <typename U, typename Index = int64_t>
struct RowCut {
  U threshold;
  Index tie;
};
template <typename U>
SSD_HOST_DEVICE RowCut<U> empty_cut() {
  return {~U(0), -1};
}
template <typename U, typename Index>
SSD_HOST_DEVICE bool is_selected(U key, std::type_identity_t<Index> index, RowCut<U, Index> cut) {
  return key > cut.threshold || (key == cut.threshold && index <= cut.tie);
}

// The least key that may be selected: the threshold, yet never an excluded row's.
template <typename U>
SSD_HOST_DEVICE U least_selected(RowCut<U> cut) {
  return cut.threshold > kExcluded<U> ? cut.threshold : kExcluded<U> + 1;
}

// The same of the rows that may be selected, for keys of a row of `width` and its type of an index.
template <typename Index, typename U>
SSD_HOST_DEVICE RowCut<U, Index> selectable_cut(RowCut<U> cut, Index width) {
  if (cut.threshold == kExcluded<U>) return {kExcluded<U> + 1, width};
  return {cut.threshold, static_cast<Index>(cut.tie < width ? cut.tie : width)};
}

// The part of one image in the cut of a batch whose images of `width` rows lie one after the other.
template <typename U>
SSD_HOST_DEVICE RowCut<U> image_cut(RowCut<U> cut, int64_t image, int64_t width) {
  const int64_t tie = cut.tie - image * width;
  return {cut.threshold, tie < -1 ? -1 : tie < width ? tie : width - 1};
}

// Which rows are ranked together.
enum class MiningScope : int { kImage = 0, kBatch = 1 };
template <>
struct Choice<MiningScope> {
  static constexpr std::array<const char*, 2> kWords{"image", "batch"};
};

// How k follows from the number of positives: MiningConfig without its tensors.
struct MiningRule {
  enum Cap : int { kAll = 0, kAllButOne = 1, kNegatives = 2 };
  float ratio;
  bool round_up;
  int64_t min_negatives;
  Cap cap;
  bool zero_fill;  // key of a positive: 0, else -inf
  MiningScope scope;
};

template <>
struct Choice<MiningRule::Cap> {
  static constexpr std::array<const char*, 3> kWords{"all", "all_but_one", "negatives"};
};

#define SSD_MINING_OPTIONS(X) \
  X(double, ratio)            \
  X(bool, round_up)           \
  X(int64_t, min_negatives)   \
  X(MiningRule::Cap, cap)     \
  X(MiningScope, scope)       \
  X(bool, zero_fill)

SSD_OPTION_STRUCT(MiningSettings, SSD_MINING_OPTIONS);

// Of MiningSettings, or of settings that hold the same options among others.
template <typename Settings>
inline MiningRule mining_rule(const Settings& settings) {
  // Below 0 it asks for none, and the product need not fit into an integer.
  return {.ratio = static_cast<float>(settings.ratio < 0 ? 0 : settings.ratio),
          .round_up = settings.round_up,
          .min_negatives = settings.min_negatives,
          .cap = settings.cap,
          .zero_fill = settings.zero_fill,
          .scope = settings.scope};
}

// k of an image, or a batch, of width rows. The product is one float32 multiplication, as torch multiplies an integer tensor
// by a Python number. Int: of 32 or 64 bits, whatever holds the width.
template <typename Int>
SSD_HOST_DEVICE Int num_hard_negatives(const MiningRule& rule, Int positives, Int candidates,
                                       Int width) {
  const float product = positives > 0 ? mul_rn(static_cast<float>(positives), rule.ratio) : 0.0f;
  const float whole = rule.round_up ? std::ceil(product) : std::floor(product);
  const Int limit = rule.cap == MiningRule::kNegatives ? candidates
                    : rule.cap == MiningRule::kAll     ? width
                                                       : (width > 0 ? width - 1 : 0);
  const Int wanted = whole < static_cast<float>(limit) ? static_cast<Int>(whole) : limit;
  const int64_t least_wanted = rule.min_negatives > 0 ? rule.min_negatives : 0;
  const Int least = least_wanted < limit ? static_cast<Int>(least_wanted) : limit;
  return wanted > least ? wanted : least;
}

template <typename T>
SSD_HOST_DEVICE Ordered<T> positive_key(const MiningRule& rule) {
  return ordered_key<T>(rule.zero_fill ? T(0) : T(-INFINITY));
}

// What the selection of the k largest keys of each row gives.
template <typename S>
struct SelectedRows {
  S* threshold;    // [B]
  int64_t* tie;    // [B]
  int64_t* count;  // [B]
  acc_t<S>* sum;   // [B], added in double
  bool* mask;      // [B, P]
};

}  // namespace ssd_cuda
