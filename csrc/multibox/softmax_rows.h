// The rows of the logits on the CPU: cross entropies of many rows, and the gradient of one.
#pragma once

#include <cstdint>
#include <limits>

#include "../common/loss_math.h"

namespace ssd_cuda {

// Logits as the caller holds them: strides in elements, over images, priors and classes.
template <typename S>
struct Logits {
  const S* data;
  int64_t image_stride, row_stride, class_stride;
  int64_t num_classes;

  const S* row(int64_t image, int64_t p) const {
    return data + image * image_stride + p * row_stride;
  }
};

template <typename S, typename T>
T row_cross_entropy(const S* row, int64_t stride, int64_t classes, int64_t label) {
  T largest = static_cast<T>(row[0]);
  for (int64_t c = 1; c < classes; ++c) {
    const T x = static_cast<T>(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  T sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    sum += exp_fixed(static_cast<T>(row[c * stride]) - largest);
  }
  return cross_entropy(sum, static_cast<T>(row[label * stride]), largest);
}

// The cross entropy of rows [begin, begin + count) of an image at labels[0 .. count).
template <typename S, typename T>
void cross_entropy_rows(const Logits<S>& logits, int64_t image, int64_t begin, int64_t count,
                        const int32_t* labels, T* result) {
  for (int64_t i = 0; i < count; ++i) {
    result[i] = labels[i] < 0
                    ? std::numeric_limits<T>::quiet_NaN()
                    : row_cross_entropy<S, T>(logits.row(image, begin + i), logits.class_stride,
                                              logits.num_classes, labels[i]);
  }
}

// grad[c * grad_stride] = scale * (softmax(c) - [c == label]), computed in T and rounded once.
template <typename S, typename T>
void cross_entropy_row_backward(const S* row, int64_t stride, int64_t classes, int64_t label,
                                T scale, S* grad, int64_t grad_stride) {
  T largest = static_cast<T>(row[0]);
  for (int64_t c = 1; c < classes; ++c) {
    const T x = static_cast<T>(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  T sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    sum += exp_fixed(static_cast<T>(row[c * stride]) - largest);
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T probability = exp_fixed(static_cast<T>(row[c * stride]) - largest) / sum;
    grad[c * grad_stride] =
        static_cast<S>(scale * (label < 0 ? std::numeric_limits<T>::quiet_NaN()
                                          : cross_entropy_gradient(probability, c == label)));
  }
}

}  // namespace ssd_cuda
