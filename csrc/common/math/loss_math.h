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

// What a class is worth in the cross entropy of a row, as in torch's cross_entropy with weight w and label_smoothing e:
// (1 - e) w_y l_y + e / C * sum of w_c l_c over the classes c, with l_c = -log p_c and y the label. Nothing is divided by
// weights.
template <typename T>
struct ClassTerms {
  const T* weights = nullptr;  // [C]; null: 1 each
  T kept = 1;                  // 1 - e
  T spread = 0;                // e / C

  SSD_HOST_DEVICE bool smooth() const { return spread > T(0); }
  SSD_HOST_DEVICE bool any() const { return weights != nullptr || smooth(); }
  SSD_HOST_DEVICE T weight(int64_t c) const { return weights != nullptr ? weights[c] : T(1); }
  SSD_HOST_DEVICE T total(int64_t classes) const {
    T sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum = add_rn(sum, weight(c));
    return sum;
  }
  SSD_HOST_DEVICE T label_weight(int64_t label) const { return mul_rn(kept, weight(label)); }
  // plain: the cross entropy at the label; log_sum as there. Of all classes, added in their order: total = the sum of w_c,
  // shifted = the sum of w_c (x_c - largest), both read only where the labels are smooth.
  SSD_HOST_DEVICE T loss(T plain, int64_t label, T log_sum, T total, T shifted) const {
    if (label < 0) return T(NAN);
    const T own = mul_rn(label_weight(label), plain);
    if (!smooth()) return own;
    return add_rn(own, mul_rn(spread, sub_rn(mul_rn(total, log_sum), shifted)));
  }
  // d(loss)/d(logit c), with probability = softmax(c).
  SSD_HOST_DEVICE T gradient(T probability, int64_t c, int64_t label, T total) const {
    if (label < 0) return T(NAN);
    const T own = mul_rn(label_weight(label), cross_entropy_gradient(probability, c == label));
    if (!smooth()) return own;
    return add_rn(own, mul_rn(spread, sub_rn(mul_rn(total, probability), weight(c))));
  }
};

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
