// Pairwise IoU, encode and decode on the CPU; the schemas of the family.
#include "common/cpu/simd.h"
#include "common/math/box_math.h"
#include "common/torch/torch_api.h"

namespace ssd_cuda {
namespace {

constexpr int64_t kGrainRows = 4096;
constexpr int64_t kPackLanes = 16;  // of the widest vector, in floats

template <typename T>
struct Coder {
  const Vec4<T>* priors;     // [prior_rows, 4]
  const Vec4<T>* variances;  // [prior_rows, 4] or null
  Vec4<T> variance;
  int64_t prior_rows;
  BoxFormat format;
  LogClamp<T> clamp;

  Coder(const Tensor& prior_tensor, const std::optional<Tensor>& variance_tensor,
        const Doubles& variance_numbers, bool xyxy, double max_log, bool symmetric)
      : priors(in<Vec4<T>>(prior_tensor)),
        variances(in<Vec4<T>>(variance_tensor)),
        variance{T(variance_numbers[0]), T(variance_numbers[1]), T(variance_numbers[2]),
                 T(variance_numbers[3])},
        prior_rows(prior_tensor.numel() / 4),
        format(xyxy ? BoxFormat::kXyxy : BoxFormat::kCxcywh),
        clamp{T(max_log), symmetric} {}

  // fn(row, center, variance) for every row.
  template <typename Fn>
  void for_each(int64_t rows, const Fn& fn) const {
    parallel_grains(rows, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin, p = begin % prior_rows; row < end; ++row) {
        fn(row, prior_center(priors[p], format), variances ? variances[p] : variance);
        if (++p == prior_rows) p = 0;
      }
    });
  }
};

Tensor box_encode(const Tensor& boxes, const Tensor& priors, const std::optional<Tensor>& variances,
                  const Doubles& variance, bool xyxy) {
  const Tensor source = dense(boxes), prior = dense(priors);
  const auto var = variances ? std::optional(dense(*variances)) : std::nullopt;
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode", [&](auto zero) {
    using T = decltype(zero);
    const auto* x = in<Vec4<T>>(source);
    auto* y = out<Vec4<T>>(result);
    Coder<T>(prior, var, variance, xyxy, 0, false)
        .for_each(boxes.numel() / 4,
                  [&](int64_t i, Vec4<T> c, Vec4<T> v) { y[i] = encode_box(x[i], c, v); });
  });
  return result;
}

Tensor box_encode_backward(const Tensor& grad, const Tensor& boxes, const Tensor& priors,
                           const std::optional<Tensor>& variances, const Doubles& variance,
                           bool xyxy) {
  const Tensor upstream = dense(grad), source = dense(boxes), prior = dense(priors);
  const auto var = variances ? std::optional(dense(*variances)) : std::nullopt;
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(boxes.scalar_type(), "box_encode_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto *g = in<Vec4<T>>(upstream), *x = in<Vec4<T>>(source);
    auto* y = out<Vec4<T>>(result);
    Coder<T>(prior, var, variance, xyxy, 0, false)
        .for_each(boxes.numel() / 4, [&](int64_t i, Vec4<T> c, Vec4<T> v) {
          y[i] = encode_box_backward(g[i], x[i], c, v);
        });
  });
  return result;
}

Tensor box_decode(const Tensor& loc, const Tensor& priors, const std::optional<Tensor>& variances,
                  const Doubles& variance, bool xyxy, double max_log, bool symmetric) {
  const Tensor source = dense(loc), prior = dense(priors);
  const auto var = variances ? std::optional(dense(*variances)) : std::nullopt;
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode", [&](auto zero) {
    using T = decltype(zero);
    const auto* x = in<Vec4<T>>(source);
    auto* y = out<Vec4<T>>(result);
    const Coder<T> coder(prior, var, variance, xyxy, max_log, symmetric);
    coder.for_each(loc.numel() / 4, [&](int64_t i, Vec4<T> c, Vec4<T> v) {
      y[i] = decode_box(x[i], c, v, coder.clamp);
    });
  });
  return result;
}

Tensor box_decode_backward(const Tensor& grad, const Tensor& loc, const Tensor& priors,
                           const std::optional<Tensor>& variances, const Doubles& variance,
                           bool xyxy, double max_log, bool symmetric) {
  const Tensor upstream = dense(grad), source = dense(loc), prior = dense(priors);
  const auto var = variances ? std::optional(dense(*variances)) : std::nullopt;
  Tensor result = torch::stable::empty_like(source);
  dispatch_real(loc.scalar_type(), "box_decode_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto *g = in<Vec4<T>>(upstream), *x = in<Vec4<T>>(source);
    auto* y = out<Vec4<T>>(result);
    const Coder<T> coder(prior, var, variance, xyxy, max_log, symmetric);
    coder.for_each(loc.numel() / 4, [&](int64_t i, Vec4<T> c, Vec4<T> v) {
      y[i] = decode_box_backward(g[i], x[i], c, v, coder.clamp);
    });
  });
  return result;
}

// Corners and areas of boxes2 by coordinate, padded to whole vectors.
template <typename T>
struct Columns {
  int64_t padded;
  std::vector<T> x1, y1, x2, y2, area;

  explicit Columns(const Vec4<T>* boxes, int64_t count)
      : padded((count + kPackLanes - 1) / kPackLanes * kPackLanes),
        x1(padded),
        y1(padded),
        x2(padded),
        y2(padded),
        area(padded) {
    for (int64_t i = 0; i < count; ++i) {
      x1[i] = boxes[i].x, y1[i] = boxes[i].y, x2[i] = boxes[i].z, y2[i] = boxes[i].w;
      area[i] = box_area(boxes[i]);
    }
  }
};

// One row of the IoU matrix: a against every column; row: [count].
template <int kBytes, typename T>
SSD_SIMD_BODY inline void iou_row(Vec4<T> a, const Columns<T>& b, T eps, int64_t count, T* row) {
  constexpr int kLanes = kBytes / sizeof(T);
  using V = Pack<T, kLanes>;
  const V area = V{} + box_area(a);
  const Vec4<V> wide{V{} + a.x, V{} + a.y, V{} + a.z, V{} + a.w};
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vec4<V> other{load_pack<V>(&b.x1[j]), load_pack<V>(&b.y1[j]), load_pack<V>(&b.x2[j]),
                        load_pack<V>(&b.y2[j])};
    const V value = iou(wide, area, other, load_pack<V>(&b.area[j]), V{} + eps);
    if (j + kLanes <= count) {
      store_pack(row + j, value);
    } else {
      for (int lane = 0; j + lane < count; ++lane) row[j + lane] = value[lane];
    }
  }
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  const Tensor first = dense(boxes1), second = dense(boxes2);
  const int64_t n = first.size(0), m = second.size(0);
  Tensor result = empty_on(first, {n, m}, first.scalar_type());
  dispatch_real(first.scalar_type(), "box_iou", [&](auto zero) {
    using T = decltype(zero);
    const auto* a = in<Vec4<T>>(first);
    T* y = out<T>(result);
    const Columns<T> columns(in<Vec4<T>>(second), m);
    const int64_t grain = m > 0 ? 1 + 8 * kGrainRows / m : n;
    parallel_grains(n, grain, [&](int64_t begin, int64_t end) {
      with_simd([&](auto bytes) SSD_SIMD_BODY {
        for (int64_t i = begin; i < end; ++i) {
          iou_row<decltype(bytes)::value>(a[i], columns, T(eps), m, y + i * m);
        }
      });
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssd_cuda, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2, float eps) -> Tensor");
  m.def(
      "box_encode(Tensor boxes, Tensor priors, Tensor? variances, float[] variance, bool xyxy) "
      "-> Tensor");
  m.def(
      "box_encode_backward(Tensor grad, Tensor boxes, Tensor priors, Tensor? variances, "
      "float[] variance, bool xyxy) -> Tensor");
  m.def(
      "box_decode(Tensor loc, Tensor priors, Tensor? variances, float[] variance, bool xyxy, "
      "float max_log, bool symmetric) -> Tensor");
  m.def(
      "box_decode_backward(Tensor grad, Tensor loc, Tensor priors, Tensor? variances, "
      "float[] variance, bool xyxy, float max_log, bool symmetric) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ssd_cuda, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("box_encode", TORCH_BOX(&box_encode));
  m.impl("box_encode_backward", TORCH_BOX(&box_encode_backward));
  m.impl("box_decode", TORCH_BOX(&box_decode));
  m.impl("box_decode_backward", TORCH_BOX(&box_decode_backward));
}

}  // namespace ssd_cuda
