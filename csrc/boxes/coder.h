// Encode and decode as both devices are asked for them.
#pragma once

#include "boxes_rule.h"

namespace ssd_cuda {

enum class CoderOp { kEncode, kDecode, kEncodeBackward, kDecodeBackward };

// What every row of an encode or a decode shares. Row i has the prior i mod prior_rows: [P, 4] serves [B, P, 4].
template <typename T>
struct Coder {
  const Vec4<T>* priors;     // [prior_rows]
  const Vec4<T>* variances;  // [prior_rows] or null
  Vec4<T> variance;          // where variances is null
  int64_t prior_rows;
  BoxFormat format;
  LogClamp<T> clamp;

  template <typename Settings>
  static Coder of(const Vec4<T>* priors, const Vec4<T>* variances, int64_t prior_rows,
                  const Settings& settings) {
    return {.priors = priors,
            .variances = variances,
            .variance = vec4<T>(settings.variance),
            .prior_rows = prior_rows,
            .format = box_format(settings.xyxy),
            .clamp = log_clamp<T>(settings)};
  }

  SSD_HOST_DEVICE Vec4<T> center(int64_t p) const { return prior_center(priors[p], format); }
  SSD_HOST_DEVICE Vec4<T> variance_of(int64_t p) const {
    return variances ? variances[p] : variance;
  }
};

}  // namespace ssd_cuda
