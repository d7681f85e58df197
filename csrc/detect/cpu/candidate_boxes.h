// The boxes of candidates on the CPU, some at a time: candidate_box in vectors.
#pragma once

#include <algorithm>
#include <span>

#include "boxes/cpu/box_coder.h"
#include "detect/detect_rule.h"

namespace ssd_cuda {

constexpr int64_t kCandidateBoxes = 32;  // decoded together

// boxes[i] = candidate_box of keys[i], i < count <= kCandidateBoxes. Codes and priors are gathered first, so that
// their cache misses overlap.
template <typename T, typename S>
void candidate_boxes(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                     int64_t image, const CandidateKey<T>* keys, int64_t count, Vec4<T>* boxes) {
  Vec4<T> codes[kCandidateBoxes], priors[kCandidateBoxes];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t prior = candidate_index(keys[i]) % inputs.num_priors;
    codes[i] = inputs.code(image, prior);
    priors[i] = inputs.prior(image, prior);
  }
  const Coder<T> coder{.priors = priors,
                       .variances = nullptr,
                       .variance = options.variance,
                       .prior_rows = count,
                       .format = options.format,
                       .clamp = options.clamp};
  const Vec4<T>* const no_grad = nullptr;
  with_simd([&](auto bytes) SSD_SIMD_BODY {
    code_neighbours<CoderOp::kDecode, decltype(bytes)::value>(coder, 0, codes, no_grad, count,
                                                              boxes);
  });
  if (options.clip != ClipKind::kBefore) return;
  for (int64_t i = 0; i < count; ++i) boxes[i] = clip_to_image(options, inputs, image, boxes[i]);
}

// each(key, box) for the keys in order, until it returns false; then that.
template <typename T, typename S, typename Each>
inline bool each_candidate(const DetectOptions<T>& options, const DetectInputs<T, S>& inputs,
                           int64_t image, std::span<const CandidateKey<T>> keys, Each each) {
  const int64_t count = static_cast<int64_t>(keys.size());
  for (int64_t first = 0; first < count; first += kCandidateBoxes) {
    const int64_t some = std::min(count - first, kCandidateBoxes);
    Vec4<T> boxes[kCandidateBoxes];
    candidate_boxes(options, inputs, image, keys.data() + first, some, boxes);
    for (int64_t i = 0; i < some; ++i) {
      if (!each(keys[first + i], boxes[i])) return false;
    }
  }
  return true;
}

}  // namespace ssd_cuda
