// The focal loss (Lin et al. 2017, RetinaNet), once for numbers and vectors: alpha (1 - p)^gamma (-log p), p the
// probability of what is true. V is float or double with ScalarOps, or a Pack of them with PackOps.
#pragma once

#include "exp_math.h"

namespace ssd_cuda {

template <typename T>
struct FocalTerm {
  T gamma;
  T alpha_positive, alpha_negative;
  int power;  // gamma where it is 0, 1 or 2, which are multiplications; else -1

  SSD_HOST_DEVICE T alpha(bool positive) const {
    return positive ? alpha_positive : alpha_negative;
  }

  // q^gamma of q in [0, 1]; log_q(): its logarithm.
  template <typename Ops, typename V, typename Log>
  SSD_HOST_DEVICE V weight(V q, const Log& log_q) const {
    if (power == 2) return Ops::mul(q, q);
    if (power == 1) return q;
    if (power == 0) return q == q ? V{} + T(1) : q;
    return exp_negative_by<Ops>(Ops::mul(V{} + gamma, log_q()));
  }
};

// One logit of the sigmoid form, by its margin z: the logit at the column of the row's label, its negative elsewhere.
// p = 1 / (1 + exp(-z)) and -log p = log(1 + exp(-z)), both from e = exp(-|z|). What rounding takes from 1 + e is added to
// the logarithm, so that an easy logit has a loss too.
template <typename Ops, typename T, typename V>
struct SigmoidFocal {
  V p, q, loss, weight;  // q = 1 - p, loss = -log p, weight = q^gamma

  SSD_HOST_DEVICE SigmoidFocal(const FocalTerm<T>& term, V z) {
    const V one = V{} + T(1);
    const auto below = z < V{};
    const V e = exp_negative_by<Ops>(below ? z : -z);
    const V sum = Ops::add(one, e), share = Ops::div(one, sum), rest = Ops::mul(e, share);
    const V lost = Ops::add(e, -Ops::add(sum, -one));
    const V log_sum = Ops::add(log_normal_by<Ops>(sum), Ops::mul(lost, share));
    p = below ? rest : share;
    q = below ? share : rest;
    loss = below ? Ops::add(log_sum, -z) : log_sum;
    weight =
        term.template weight<Ops>(q, [&]() { return below ? -log_sum : -Ops::add(z, log_sum); });
  }
  SSD_HOST_DEVICE V value(T alpha) const { return Ops::mul(V{} + alpha, Ops::mul(weight, loss)); }
  // -d(value) / dz, which is not negative.
  SSD_HOST_DEVICE V slope(const FocalTerm<T>& term, T alpha) const {
    const V inner = Ops::add(Ops::mul(Ops::mul(V{} + term.gamma, p), loss), q);
    return Ops::mul(V{} + alpha, Ops::mul(weight, inner));
  }
};

// One row of the softmax form, from its cross entropy. The gradient at logit c is factor (softmax(c) - [c == label]).
template <typename Ops, typename V>
struct SoftmaxFocal {
  V value, factor;

  template <typename T>
  SSD_HOST_DEVICE SoftmaxFocal(const FocalTerm<T>& term, V alpha, V cross_entropy) {
    const V one = V{} + T(1);
    const V p = exp_negative_by<Ops>(-cross_entropy), q = Ops::add(one, -p);
    const V weight =
        Ops::mul(alpha, term.template weight<Ops>(q, [&]() { return log_by<Ops>(q); }));
    // cross entropy / q is 1 where both are 0.
    const V ratio = q > V{} ? Ops::div(cross_entropy, q) : one;
    value = Ops::mul(weight, cross_entropy);
    factor = Ops::mul(weight, Ops::add(Ops::mul(Ops::mul(V{} + term.gamma, p), ratio), one));
  }
};

}  // namespace ssd_cuda
