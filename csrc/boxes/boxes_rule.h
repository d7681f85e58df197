// The options of encode and decode, for every op that codes boxes.
#pragma once

#include "common/math/box_math.h"
#include "common/options.h"

namespace ssd_cuda {

#define SSD_IOU_OPTIONS(X) X(double, eps) /* added to the union */

#define SSD_ENCODE_OPTIONS(X)                              \
  X(Numbers<4>, variance) /* of every prior, x, y, w, h */ \
  X(bool, xyxy)           /* priors: x1, y1, x2, y2; else cx, cy, w, h */

#define SSD_DECODE_OPTIONS(X)                      \
  SSD_ENCODE_OPTIONS(X)                            \
  X(double, max_log) /* LogClamp; inf: no clamp */ \
  X(bool, symmetric)

SSD_OPTION_STRUCT(IouSettings, SSD_IOU_OPTIONS);
SSD_OPTION_STRUCT(EncodeSettings, SSD_ENCODE_OPTIONS);
SSD_OPTION_STRUCT(DecodeSettings, SSD_DECODE_OPTIONS);

template <typename T>
inline Vec4<T> vec4(const Numbers<4>& n) {
  return {T(n[0]), T(n[1]), T(n[2]), T(n[3])};
}
inline BoxFormat box_format(bool xyxy) { return xyxy ? BoxFormat::kXyxy : BoxFormat::kCxcywh; }

// The clamp of the settings; those of an encoding have none.
template <typename T, typename Settings>
inline LogClamp<T> log_clamp(const Settings& settings) {
  if constexpr (requires { settings.max_log; }) {
    return {T(settings.max_log), settings.symmetric};
  } else {
    return {T(INFINITY), false};
  }
}

}  // namespace ssd_cuda
