// Everything this project uses of torch's C++ interface: the LibTorch stable ABI, so that one binary serves
// every torch from TORCH_TARGET_VERSION on. Bindings include this file and no other torch header.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/cpu/parallel.h"
#include "common/cpu/stream_zeros.h"
#include "common/cpu/zero_pages.h"
#include "common/math/host_device.h"
#include "common/options.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda_stream.h"
#endif

// What checks a call into torch's C shim has this name from torch 2.12 on.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace ssd_cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The pointer types of a dtype: what the kernels of this translation unit call half and bfloat16.
#if defined(__CUDACC__)
using Half = __half;
using BFloat16 = __nv_bfloat16;
#else
using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;
#endif

template <typename T>
inline const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
inline const T* in(const std::optional<Tensor>& t) {
  return t.has_value() ? in<T>(*t) : nullptr;
}
template <typename T>
inline T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// t itself, or a contiguous copy where t is strided or starts at an address that vector loads cannot take.
inline Tensor dense(const Tensor& t, std::size_t alignment = 32) {
  if (!t.is_contiguous()) return torch::stable::contiguous(t);
  const bool aligned = reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % alignment == 0;
  return aligned ? t : torch::stable::clone(t);
}

inline std::optional<Tensor> dense_or_none(const std::optional<Tensor>& t,
                                           std::size_t alignment = 32) {
  return t ? std::optional(dense(*t, alignment)) : std::nullopt;
}

inline Tensor packed(const Tensor& t) { return torch::stable::contiguous(t); }
inline Tensor swap_last(const Tensor& t) { return torch::stable::transpose(t, -2, -1); }

inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> size, ScalarType dtype) {
  return torch::stable::new_empty(like, size, dtype);
}
inline Tensor zeros_on(const Tensor& like, std::initializer_list<int64_t> size, ScalarType dtype) {
  return torch::stable::new_zeros(like, size, dtype);
}

// Calls fn(T{}) with T = float or double.
template <typename Fn>
inline void dispatch_real(ScalarType dtype, const char* op, const Fn& fn) {
  if (dtype == ScalarType::Float) return fn(float{});
  if (dtype == ScalarType::Double) return fn(double{});
  STD_TORCH_CHECK(false, op, ": expected float32 or float64, got another dtype");
}

// Calls fn(T{}) with T = float, double, Half or BFloat16.
template <typename Fn>
inline void dispatch_floating(ScalarType dtype, const char* op, const Fn& fn) {
  if (dtype == ScalarType::Half) return fn(Half{});
  if (dtype == ScalarType::BFloat16) return fn(BFloat16{});
  dispatch_real(dtype, op, fn);
}

// A contiguous zero tensor. Large memory comes as zero pages from the system (zero_pages.h); smaller memory is reused by
// malloc and cleared.
inline Tensor zeros_for_rows(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype,
                             std::size_t element_bytes) {
  constexpr std::size_t kMinStreamBytes = std::size_t{1} << 20;  // less stays in the cache
  constexpr int64_t kGrain = int64_t{1} << 18;
  std::size_t bytes = element_bytes;
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  for (std::size_t d = size.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= size[d];
    bytes *= static_cast<std::size_t>(size[d]);
  }
  if (const ZeroPages pages = ZeroPages::map(bytes); pages.memory != nullptr) {
    return torch::stable::from_blob(pages.memory, size, strides, like.device(), dtype,
                                    [pages](void*) { pages.unmap(); });
  }
  if (bytes < kMinStreamBytes) return torch::stable::new_zeros(like, size, dtype);
  const Tensor zeros = torch::stable::new_empty(like, size, dtype);
  char* memory = out<char>(zeros);
  parallel_grains(static_cast<int64_t>(bytes), kGrain, [&](int64_t begin, int64_t end) {
    stream_zeros(memory + begin, static_cast<std::size_t>(end - begin));
  });
  return zeros;
}

#if defined(__CUDACC__)
// Makes the tensor's card current for the scope and names the stream that torch uses there.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    STD_TORCH_CHECK(current_cuda_stream() != nullptr,
                    "ssd_cuda: this torch has no CUDA; install a CUDA build of torch");
    STABLE_TORCH_ERROR_CODE_CHECK(current_cuda_stream()(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

inline void check_cuda(cudaError_t error, const char* op) {
  if (error != cudaSuccess) cudaGetLastError();  // told here: the next launch is not to blame
  STD_TORCH_CHECK(error == cudaSuccess, op, ": ", cudaGetErrorString(error));
}
#endif

}  // namespace ssd_cuda
