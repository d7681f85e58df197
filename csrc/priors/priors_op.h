// What the op of priors demands, for both devices.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"
#include "priors_levels.h"

namespace ssd_cuda {

// fn(R{}, Out{}): arithmetic and output type.
template <typename Fn>
inline void dispatch_priors(const Tensor& output, bool single, const Fn& fn) {
  check_real("output", output);
  check_size("output", output, {kAnySize, 4});
  SSD_CHECK(output.is_contiguous(), "output must be contiguous, got other strides");
  dispatch_real(output.scalar_type(), "fill_priors", [&](auto zero) {
    using Out = decltype(zero);
    if (single) return fn(float{}, Out{});
    fn(double{}, Out{});
  });
}

}  // namespace ssd_cuda
