// One prior from its place: the arithmetic of every codebase, once for the CPU and the CUDA kernels.
//
//   centre    ((column + offset) / divisor_x, (row + offset) / divisor_y), in fractions of the image; the
//             divisor is image / step, or the number of cells
//   size      (w, h) in fractions, given per box of a cell
//   then      clip, corners if asked for, times the scale (1, or the image's pixels)
//
// R is the arithmetic: double, rounded once at the end (codebases that compute in Python numbers), or float,
// rounded after every operation (torchvision computes in float32 tensors).
#pragma once

#include "common/math/box_math.h"
#include "common/options.h"

namespace ssd_cuda {

enum class PriorClip : int { kNone = 0, kCxcywh = 1, kSize = 2, kCorners = 3 };
template <>
struct Choice<PriorClip> {
  static constexpr std::array<const char*, 4> kWords{"none", "cxcywh", "wh", "corners"};
};

#define SSD_PRIOR_OPTIONS(X)                                              \
  X(Ints, grid)        /* rows, columns and boxes a cell of each level */ \
  X(Doubles, divisors) /* x, y of each level */                           \
  X(Doubles, sizes)    /* w, h of each box of each level */               \
  X(double, offset)                                                       \
  X(double, scale_x)                                                      \
  X(double, scale_y)                                                      \
  X(PriorClip, clip)                                                      \
  X(bool, corners)                                                        \
  X(bool, box_major)                                                      \
  X(bool, single) /* arithmetic in float32 */

SSD_OPTION_STRUCT(PriorSettings, SSD_PRIOR_OPTIONS);

struct PriorStyle {
  double offset;
  double scale_x, scale_y;
  PriorClip clip;
  bool corners;    // output x1, y1, x2, y2; else cx, cy, w, h
  bool box_major;  // within a level all cells of a box are neighbours; else all boxes of a cell
};

inline PriorStyle prior_style(const PriorSettings& settings) {
  return {.offset = settings.offset,
          .scale_x = settings.scale_x,
          .scale_y = settings.scale_y,
          .clip = settings.clip,
          .corners = settings.corners,
          .box_major = settings.box_major};
}

struct PriorLevel {
  int64_t first_row;  // of the level, in the output
  int64_t rows, columns;
  int64_t boxes;  // per cell
  double divisor_x, divisor_y;

  SSD_HOST_DEVICE int64_t output_row(int64_t cell, int64_t box, bool box_major) const {
    return first_row + (box_major ? box * rows * columns + cell : cell * boxes + box);
  }
};

template <typename R>
SSD_HOST_DEVICE R clamp_unit(R v) {
  return v < R(0) ? R(0) : v > R(1) ? R(1) : v;
}
template <typename R>
SSD_HOST_DEVICE Vec4<R> clamp_unit(Vec4<R> v) {
  return {clamp_unit(v.x), clamp_unit(v.y), clamp_unit(v.z), clamp_unit(v.w)};
}

template <typename R, typename Out>
SSD_HOST_DEVICE Vec4<Out> make_prior(const PriorLevel& level, const PriorStyle& style, int64_t cell,
                                     double width, double height) {
  const int64_t row = cell / level.columns, column = cell % level.columns;
  Vec4<R> prior{div_rn(add_rn(R(column), R(style.offset)), R(level.divisor_x)),
                div_rn(add_rn(R(row), R(style.offset)), R(level.divisor_y)), R(width), R(height)};
  if (style.clip == PriorClip::kCxcywh) prior = clamp_unit(prior);
  if (style.clip == PriorClip::kSize) {
    prior.z = clamp_unit(prior.z);
    prior.w = clamp_unit(prior.w);
  }
  if (style.clip == PriorClip::kCorners) {
    prior = clamp_unit(to_xyxy(prior));
    if (!style.corners) prior = to_cxcywh(prior);
  } else if (style.corners) {
    prior = to_xyxy(prior);
  }
  const R sx = R(style.scale_x), sy = R(style.scale_y);
  return {Out(mul_rn(prior.x, sx)), Out(mul_rn(prior.y, sy)), Out(mul_rn(prior.z, sx)),
          Out(mul_rn(prior.w, sy))};
}

}  // namespace ssd_cuda
