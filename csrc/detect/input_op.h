// The input of an exported program, which nothing else looks at: a package of AOTInductor reads the numbers of the image size
// that it was compiled for wherever the tensor begins, of any dtype, shape and order in memory.
#pragma once

#include "common/torch/boxing.h"
#include "common/torch/checks.h"

namespace ssd_cuda {

enum class InputType : int { kFloat = 0, kHalf = 1, kBFloat16 = 2, kByte = 3 };
template <>
struct Choice<InputType> {
  static constexpr std::array<const char*, 4> kWords{"float32", "float16", "bfloat16", "uint8"};
};

enum class InputName : int { kImages = 0, kLoc = 1, kConf = 2 };
template <>
struct Choice<InputName> {
  static constexpr std::array<const char*, 3> kWords{"images", "loc", "conf"};
};

#define SSD_INPUT_OPTIONS(X)                                 \
  X(InputName, name)                                         \
  X(Ints, size) /* of one image or row: all but the first */ \
  X(InputType, dtype)                                        \
  X(int64_t, most) /* in the batch */

SSD_OPTION_STRUCT(InputSettings, SSD_INPUT_OPTIONS);

// A copy of the input in the usual order.
inline Tensor checked_input(const Tensor& input, const InputSettings& settings) {
  constexpr std::array kTypes{ScalarType::Float, ScalarType::Half, ScalarType::BFloat16,
                              ScalarType::Byte};
  const char* const name = Choice<InputName>::kWords[static_cast<std::size_t>(settings.name)];
  const ScalarType dtype = kTypes[static_cast<std::size_t>(settings.dtype)];
  SSD_CHECK(input.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ",
            dtype_name(input.scalar_type()));
  Ints sizes{kAnySize};
  sizes.insert(sizes.end(), settings.size.begin(), settings.size.end());
  bool fits = input.dim() == static_cast<int64_t>(sizes.size());
  for (std::size_t d = 1; fits && d < sizes.size(); ++d) {
    fits = input.size(static_cast<int64_t>(d)) == sizes[d];
  }
  SSD_CHECK(fits, name, " must have shape ", size_text(sizes), ", got ", size_text(input.sizes()));
  SSD_CHECK(input.size(0) >= 1 && input.size(0) <= settings.most, name, " must be a batch of 1 to ",
            settings.most, ", got ", input.size(0));
  sizes[0] = input.size(0);
  Tensor copy = torch::stable::new_empty(input, sizes, dtype);
  torch::stable::copy_(copy, input);
  return copy;
}

}  // namespace ssd_cuda
