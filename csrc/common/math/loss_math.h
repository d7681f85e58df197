// The loss formulas of SSD, each once: the cross entropy of a row, its gradient, and the two localisation losses.
// T is the arithmetic type, float or double.
#pragma once

#include "exp_math.h"

namespace ssd_cuda {

// -log softmax at one class: log_sum = log of the sum over the classes of exp(x - largest), x the logit of the class.
// The sum is at least 1 and x <= largest, so the result is never negative; a logit of NaN or +inf gives NaN.
template <typename T>
SSD_HOST_DEVICE T cross_entropy(T log_sum, T x, T largest) {
  return sub_rn(log_sum, sub_rn(x, largest));
}

// d(cross entropy of class label)/d(logit c) = softmax(c) - [c == label], with probability = softmax(c).
template <typename T>
SSD_HOST_DEVICE T cross_entropy_gradient(T probability, bool is_label) {
  return is_label ? probability - T(1) : probability;
}

// beta = 0 is L1.
template <typename T>
SSD_HOST_DEVICE T smooth_l1(T difference, T beta) {
  const T size = std::abs(difference);
  return size < beta ? T(0.5) * size * size / beta : size - T(0.5) * beta;
}

// A NaN difference has a NaN gradient; at 0, L1 has the gradient 0.
template <typename T>
SSD_HOST_DEVICE T smooth_l1_gradient(T difference, T beta) {
  if (std::abs(difference) < beta) return difference / beta;
  return difference > T(0) ? T(1) : difference < T(0) ? T(-1) : difference;
}

}  // namespace ssd_cuda
