// The localisation of one row: how loc differs from its target, its gradient, its stores.
#pragma once

#include "multibox/multibox_rule.h"
#include "tile.cuh"

namespace ssd_cuda {

template <typename S, typename T>
__device__ __forceinline__ Vec4<T> loc_row(RowsView<const S> loc, int64_t image, int64_t p) {
  const S* x = loc.at(image, p);
  const int64_t s = loc.class_stride;
  return {static_cast<T>(x[0]), static_cast<T>(x[s]), static_cast<T>(x[2 * s]),
          static_cast<T>(x[3 * s])};
}

// The difference of loc and its target at one localized row.
template <typename S, typename T>
__device__ Vec4<T> loc_difference(RowsView<const S> loc, const Targets<T>& targets, int64_t image,
                                  int64_t p) {
  const S* x = loc.at(image, p);
  const int64_t s = loc.class_stride;
  const Vec4<T> t = targets.loc_target(image, p);
  return {static_cast<T>(x[0]) - t.x, static_cast<T>(x[s]) - t.y, static_cast<T>(x[2 * s]) - t.z,
          static_cast<T>(x[3 * s]) - t.w};
}

// One row of d_loc. Its four numbers lie together in [B, P, 4]: one store then (16 bytes in float, 8 in half).
template <typename S>
__device__ __forceinline__ void store_loc(S* target, int64_t stride, Vec4<S> value) {
  if (stride == 1) {
    *reinterpret_cast<Vec4<S>*>(target) = value;
    return;
  }
  target[0] = value.x;
  target[stride] = value.y;
  target[2 * stride] = value.z;
  target[3 * stride] = value.w;
}

// One row of d_loc that is zeros. args: what LossGradients has.
template <typename S, typename Args>
__device__ __forceinline__ void clear_loc(const Args& args, int64_t image, int64_t p) {
  store_loc(args.d_loc.at(image, p), args.d_loc.class_stride, Vec4<S>{S(0), S(0), S(0), S(0)});
}

// One row of d_loc that is localized, scale its image's, not 0. args: what LossInputs has of it, grad_loc and d_loc.
template <typename S, bool kGeneral = false, typename Args, typename T>
__device__ __forceinline__ void write_loc(const Args& args, int64_t image, int64_t p, T scale) {
  const T factor = static_cast<T>(static_cast<double>(*args.grad_loc) * args.rule.loss.loc_factor *
                                  static_cast<double>(scale));
  Vec4<T> gradient;
  if (kGeneral && is_box_loss(args.rule.loss.loc)) {
    const Vec4<T> x = loc_row<S, T>(args.loc, image, p);
    const Vec4<T> d = args.targets.box_loss(image, p, x, args.rule.loss.loc).gradient;
    gradient = {factor * d.x, factor * d.y, factor * d.z, factor * d.w};
  } else {
    const Vec4<T> d = loc_difference(args.loc, args.targets, image, p);
    const T beta = static_cast<T>(args.rule.loss.beta);
    gradient = {factor * smooth_l1_gradient(d.x, beta), factor * smooth_l1_gradient(d.y, beta),
                factor * smooth_l1_gradient(d.z, beta), factor * smooth_l1_gradient(d.w, beta)};
  }
  store_loc(args.d_loc.at(image, p), args.d_loc.class_stride,
            Vec4<S>{static_cast<S>(gradient.x), static_cast<S>(gradient.y),
                    static_cast<S>(gradient.z), static_cast<S>(gradient.w)});
}

}  // namespace ssd_cuda
