// What the ops demand of their tensors. Whoever calls torch.ops.ssd_cuda directly, an exported program for one, gets one
// sentence instead of a dead process. Each op's demands stand once, in <family>_op.h, for both devices.
#pragma once

#include <initializer_list>
#include <string>

#include "torch_api.h"

namespace ssd_cuda {

constexpr int64_t kAnySize = -1;

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    default:
      return "dtype " + std::to_string(static_cast<int>(dtype));
  }
}

template <typename Sizes>
inline std::string size_text(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) {
    text +=
        (text.empty() ? "" : ", ") + (size == kAnySize ? std::string("*") : std::to_string(size));
  }
  return "[" + text + "]";
}

inline std::string device_text(const Tensor& t) {
  if (t.is_cpu()) return "the CPU";
  return (t.is_cuda() ? "CUDA device " : "another device, index ") +
         std::to_string(t.get_device_index());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() ? b.is_cpu()
                    : a.is_cuda() == b.is_cuda() && !b.is_cpu() &&
                          a.get_device_index() == b.get_device_index();
}

inline bool has_size(const Tensor& t, std::initializer_list<int64_t> sizes) {
  if (t.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t d = 0;
  for (const int64_t size : sizes) {
    if (const int64_t got = t.size(d++); size != kAnySize && size != got) return false;
  }
  return true;
}

inline bool is_real(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double;
}
inline bool is_floating(ScalarType dtype) {
  return is_real(dtype) || dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}
// The dtype of the arithmetic on a storage dtype.
inline ScalarType wide_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_real(const char* name, const Tensor& t) {
  SSD_CHECK(is_real(t.scalar_type()), name, " must be float32 or float64, got ",
            dtype_name(t.scalar_type()));
}
inline void check_floating(const char* name, const Tensor& t) {
  SSD_CHECK(is_floating(t.scalar_type()), name,
            " must be float32, float64, float16 or bfloat16, got ", dtype_name(t.scalar_type()));
}
inline void check_size(const char* name, const Tensor& t, std::initializer_list<int64_t> sizes) {
  SSD_CHECK(has_size(t, sizes), name, " must have shape ", size_text(sizes), ", got ",
            size_text(t.sizes()));
}
// t lies beside `first`, the tensor that says where the op runs, and has this dtype.
inline void check_kind(const char* name, const Tensor& t, ScalarType dtype, const Tensor& first) {
  SSD_CHECK(t.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ",
            dtype_name(t.scalar_type()));
  SSD_CHECK(same_device(t, first), name, " must lie on ", device_text(first),
            " like the others, got ", device_text(t));
}
inline void check_tensor(const char* name, const Tensor& t, ScalarType dtype,
                         std::initializer_list<int64_t> sizes, const Tensor& first) {
  check_kind(name, t, dtype, first);
  check_size(name, t, sizes);
}
inline void check_tensor(const char* name, const std::optional<Tensor>& t, ScalarType dtype,
                         std::initializer_list<int64_t> sizes, const Tensor& first) {
  if (t) check_tensor(name, *t, dtype, sizes, first);
}
// [P, 4], or [B, P, 4] for priors of each image.
inline void check_priors(const char* name, const Tensor& t, ScalarType dtype, int64_t images,
                         int64_t width, const Tensor& first) {
  check_kind(name, t, dtype, first);
  SSD_CHECK(has_size(t, {width, 4}) || has_size(t, {images, width, 4}), name, " must have shape ",
            size_text(std::initializer_list<int64_t>{width, 4}), " or ",
            size_text(std::initializer_list<int64_t>{images, width, 4}), ", got ",
            size_text(t.sizes()));
}

}  // namespace ssd_cuda
