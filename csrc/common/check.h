// What a wrong call is told: one sentence, which torch raises as RuntimeError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace ssd_cuda {

// STD_TORCH_CHECK would put the path of the source before the sentence.
template <typename... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream sentence;
  ((sentence << parts), ...);
  throw std::runtime_error(sentence.str());
}

}  // namespace ssd_cuda

#define SSD_CHECK(condition, ...) \
  if (!(condition)) ::ssd_cuda::fail(__VA_ARGS__)
