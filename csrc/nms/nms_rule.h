// The options of suppression, for nms and detect.
#pragma once

#include "common/math/nms_math.h"
#include "common/options.h"

namespace ssd_cuda {

#define SSD_SUPPRESS_OPTIONS(X) \
  X(double, iou_threshold)      \
  SSD_OVERLAP_OPTIONS(X)

#define SSD_OVERLAP_OPTIONS(X)                          \
  X(bool, inclusive)      /* >= the threshold, not > */ \
  X(double, iou_eps)      /* added to the union */      \
  X(double, pixel_offset) /* added to the sides: 1 where x2 is in */

#define SSD_NMS_PADDED_OPTIONS(X) \
  SSD_SUPPRESS_OPTIONS(X)         \
  X(OpenInt, max_output)

SSD_OPTION_STRUCT(NmsSettings, SSD_SUPPRESS_OPTIONS);
SSD_OPTION_STRUCT(NmsPaddedSettings, SSD_NMS_PADDED_OPTIONS);

template <typename T, typename Settings>
inline SuppressRule<T> suppress_rule_of(const Settings& settings, double iou_threshold) {
  return suppress_rule<T>(iou_threshold, settings.inclusive, settings.iou_eps,
                          settings.pixel_offset);
}
template <typename T, typename Settings>
inline SuppressRule<T> suppress_rule_of(const Settings& settings) {
  return suppress_rule_of<T>(settings, settings.iou_threshold);
}

}  // namespace ssd_cuda
