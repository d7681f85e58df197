// The box formulas of SSD, each once: areas, IoU, the centre-size code and their gradients, with the same bits on every
// device. T is the arithmetic type, float or double, or a vector of them (simd.h; Ops is PackOps there). A box is
// x1, y1, x2, y2; a prior may also be cx, cy, w, h.
#pragma once

#include "exp_math.h"
#include "host_device.h"

namespace ssd_cuda {

template <typename T>
struct alignas(4 * sizeof(T)) Vec4 {
  T x, y, z, w;
};

template <typename To, typename From>
SSD_HOST_DEVICE Vec4<To> vec4_as(Vec4<From> v) {
  return {static_cast<To>(v.x), static_cast<To>(v.y), static_cast<To>(v.z), static_cast<To>(v.w)};
}

// How the four numbers of a prior are written.
enum class BoxFormat : int { kCxcywh = 0, kXyxy = 1 };

template <typename T>
SSD_HOST_DEVICE Vec4<T> to_xyxy(Vec4<T> c) {
  const T half = T{} + 0.5f, half_w = mul_rn(half, c.z), half_h = mul_rn(half, c.w);
  return {sub_rn(c.x, half_w), sub_rn(c.y, half_h), add_rn(c.x, half_w), add_rn(c.y, half_h)};
}

template <typename T>
SSD_HOST_DEVICE Vec4<T> to_cxcywh(Vec4<T> b) {
  const T half = T{} + 0.5f, w = sub_rn(b.z, b.x), h = sub_rn(b.w, b.y);
  return {add_rn(b.x, mul_rn(half, w)), add_rn(b.y, mul_rn(half, h)), w, h};
}

template <typename T>
SSD_HOST_DEVICE Vec4<T> prior_corners(Vec4<T> prior, BoxFormat format) {
  return format == BoxFormat::kXyxy ? prior : to_xyxy(prior);
}

template <typename T>
SSD_HOST_DEVICE Vec4<T> prior_center(Vec4<T> prior, BoxFormat format) {
  return format == BoxFormat::kXyxy ? to_cxcywh(prior) : prior;
}

// Finite, with positive width and height.
template <typename T>
SSD_HOST_DEVICE bool is_valid_box(Vec4<T> b) {
  const T limit = sizeof(T) == 4 ? T(3.402823466e38f) : T(1.7976931348623157e308);
  return b.z > b.x && b.w > b.y && b.x >= -limit && b.y >= -limit && b.z <= limit && b.w <= limit;
}

// Where a formula adds something that a rule may leave out: nothing is not 0.0, which would be one operation more, since
// x + 0.0 is not x where x is -0.0.
struct Nothing {};
template <typename T>
SSD_HOST_DEVICE T plus(T value, T addend) {
  return add_rn(value, addend);
}
template <typename T>
SSD_HOST_DEVICE T plus(T value, Nothing) {
  return value;
}

// pixel_offset is 1 for the codebases that measure a box as x2 - x1 + 1, and 0 or nothing for the others.
template <typename T, typename Offset = Nothing>
SSD_HOST_DEVICE T box_area(Vec4<T> b, Offset pixel_offset = {}) {
  return mul_rn(plus(sub_rn(b.z, b.x), pixel_offset), plus(sub_rn(b.w, b.y), pixel_offset));
}

// Of boxes without NaN; a box with one has a NaN area, which union_of and iou pass on.
template <typename T, typename Offset = Nothing>
SSD_HOST_DEVICE T intersection_area(Vec4<T> a, Vec4<T> b, Offset pixel_offset = {}) {
  const T w = plus(sub_rn(min_number(a.z, b.z), max_number(a.x, b.x)), pixel_offset);
  const T h = plus(sub_rn(min_number(a.w, b.w), max_number(a.y, b.y)), pixel_offset);
  return mul_rn(max_number(w, T{}), max_number(h, T{}));
}

// inter / (area_a + area_b - inter + eps), each operation rounded on its own in this order: torchvision's
// box_iou bit for bit, but for the sign of a zero: its clamp keeps -0.0. Two boxes of zero area give 0 / 0 = NaN, as there.
template <typename T, typename Eps = Nothing>
SSD_HOST_DEVICE T union_of(T inter, T area_a, T area_b, Eps eps = {}) {
  return plus(sub_rn(add_rn(area_a, area_b), inter), eps);
}
template <typename T, typename Eps = Nothing>
SSD_HOST_DEVICE T iou_of(T inter, T area_a, T area_b, Eps eps = {}) {
  return div_rn(inter, union_of(inter, area_a, area_b, eps));
}
template <typename T, typename Eps = Nothing, typename Offset = Nothing>
SSD_HOST_DEVICE T iou(Vec4<T> a, T area_a, Vec4<T> b, T area_b, Eps eps = {},
                      Offset pixel_offset = {}) {
  return iou_of(intersection_area(a, b, pixel_offset), area_a, area_b, eps);
}

// The centre-size code: ((g - p) / p_size) / v for the centre, log(g_size / p_size) / v for the size.
template <typename Ops = ScalarOps, typename T>
SSD_HOST_DEVICE Vec4<T> encode_box(Vec4<T> box, Vec4<T> center, Vec4<T> variance) {
  const Vec4<T> g = to_cxcywh(box);
  return {(g.x - center.x) / center.z / variance.x, (g.y - center.y) / center.w / variance.y,
          log_by<Ops>(g.z / center.z) / variance.z, log_by<Ops>(g.w / center.w) / variance.w};
}

// Where dw, dh are cut before exp. max_log = +inf: nowhere; symmetric: also below at -max_log.
template <typename T>
struct LogClamp {
  T max_log;
  bool symmetric;
  SSD_HOST_DEVICE T operator()(T v) const {
    v = v > max_log ? max_log : v;
    if (symmetric) v = v < -max_log ? -max_log : v;
    return v;
  }
  // The gradient of what was cut, from that of the result: none where v was cut.
  SSD_HOST_DEVICE T gradient(T v, T grad) const {
    grad = v > max_log ? T{} : grad;
    if (symmetric) grad = v < -max_log ? T{} : grad;
    return grad;
  }
};

// The inverse of encode_box; the result is x1, y1, x2, y2.
template <typename Ops = ScalarOps, typename T>
SSD_HOST_DEVICE Vec4<T> decode_box(Vec4<T> loc, Vec4<T> center, Vec4<T> variance,
                                   LogClamp<T> clamp) {
  const T cx = add_rn(center.x, mul_rn(mul_rn(loc.x, variance.x), center.z));
  const T cy = add_rn(center.y, mul_rn(mul_rn(loc.y, variance.y), center.w));
  const T w = mul_rn(center.z, exp_by<Ops>(clamp(mul_rn(loc.z, variance.z))));
  const T h = mul_rn(center.w, exp_by<Ops>(clamp(mul_rn(loc.w, variance.w))));
  return to_xyxy(Vec4<T>{cx, cy, w, h});
}

// d(encode_box)/d(box), transposed, times grad.
template <typename T>
SSD_HOST_DEVICE Vec4<T> encode_box_backward(Vec4<T> grad, Vec4<T> box, Vec4<T> center,
                                            Vec4<T> variance) {
  const T half = T{} + 0.5f, w = box.z - box.x, h = box.w - box.y;
  const T gx = half * grad.x / center.z / variance.x, gy = half * grad.y / center.w / variance.y;
  const T gw = grad.z / variance.z / w, gh = grad.w / variance.w / h;
  return {gx - gw, gy - gh, gx + gw, gy + gh};
}

// d(decode_box)/d(loc), transposed, times grad. A clamped size has no gradient.
template <typename Ops = ScalarOps, typename T>
SSD_HOST_DEVICE Vec4<T> decode_box_backward(Vec4<T> grad, Vec4<T> loc, Vec4<T> center,
                                            Vec4<T> variance, LogClamp<T> clamp) {
  const T half = T{} + 0.5f, lw = loc.z * variance.z, lh = loc.w * variance.w;
  const T w = center.z * exp_by<Ops>(clamp(lw)), h = center.w * exp_by<Ops>(clamp(lh));
  return {(grad.x + grad.z) * variance.x * center.z, (grad.y + grad.w) * variance.y * center.w,
          clamp.gradient(lw, half * (grad.z - grad.x) * w * variance.z),
          clamp.gradient(lh, half * (grad.w - grad.y) * h * variance.w)};
}

template <typename T>
SSD_HOST_DEVICE Vec4<T> clip_box(Vec4<T> b, T width, T height) {
  return {min_nan(max_nan(b.x, T(0)), width), min_nan(max_nan(b.y, T(0)), height),
          min_nan(max_nan(b.z, T(0)), width), min_nan(max_nan(b.w, T(0)), height)};
}

}  // namespace ssd_cuda
