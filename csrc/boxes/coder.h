// Encode and decode as both devices are asked for them.
#pragma once

#include "boxes_rule.h"

namespace ssd_cuda {

enum class CoderOp { kEncode, kDecode, kEncodeBackward, kDecodeBackward };

// One row, or a vector of rows, of an op. `row` is a box where the op encodes, else a code; grad is read by the backward
// ops only.
template <CoderOp kOp, typename Ops = ScalarOps, typename T>
SSD_HOST_DEVICE Vec4<T> code_box(Vec4<T> row, Vec4<T> grad, Vec4<T> center, Vec4<T> variance,
                                 LogClamp<T> clamp) {
  if constexpr (kOp == CoderOp::kEncode) {
    return encode_box<Ops>(row, center, variance);
  } else if constexpr (kOp == CoderOp::kDecode) {
    return decode_box<Ops>(row, center, variance, clamp);
  } else if constexpr (kOp == CoderOp::kEncodeBackward) {
    return encode_box_backward(grad, row, center, variance);
  } else {
    return decode_box_backward<Ops>(grad, row, center, variance, clamp);
  }
}
SSD_HOST_DEVICE constexpr bool reads_grad(CoderOp op) {
  return op == CoderOp::kEncodeBackward || op == CoderOp::kDecodeBackward;
}

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
