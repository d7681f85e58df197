// The one place that launches a kernel. Everything else in a <family>.cuh is plain C++ plus the CUDA built-ins,
// so that tests/emulator can compile it with g++ and run it on a CPU: there SSD_CUDA_EMULATE is defined and
// "emulator/cuda.h" stands in for the CUDA headers and provides emulator::launch.
#pragma once

#if defined(SSD_CUDA_EMULATE)
#include "emulator/cuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <type_traits>

#include "once.h"

// Dynamic shared memory of the kernel, 16-byte aligned: SSD_DYNAMIC_SHARED(float, tile);
#if defined(SSD_CUDA_EMULATE)
#define SSD_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::emulator::dynamic_shared_memory())
#else
#define SSD_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char ssd_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(ssd_dynamic_shared)
#endif

namespace ssd_cuda {

// Static and dynamic shared memory together may be 48 KB without asking. launch() knows the dynamic part only, so
// it asks from half of that on; no kernel has more than the other half of static shared memory.
constexpr std::size_t kUnaskedSharedBytes = 24 * 1024;

#if !defined(SSD_CUDA_EMULATE)
// Lets the kernel have all the dynamic shared memory that a block may ask for. Always the same number: one that follows
// the launch at hand could be lowered by another thread before this thread launches. Asked once for a kernel on a device.
inline cudaError_t allow_dynamic_shared(const void* kernel) {
  static OncePerKernel allowed;
  int device = 0;
  const cudaError_t found = cudaGetDevice(&device);
  if (found != cudaSuccess) return found;
  return allowed(kernel, device, cudaSuccess, [&] {
    int most = 0;
    cudaFuncAttributes attributes;
    cudaError_t error =
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
  });
}
#endif

template <typename... Params>
inline cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block,
                          std::size_t shared_bytes, cudaStream_t stream,
                          std::type_identity_t<Params>... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;  // nothing to do
#if defined(SSD_CUDA_EMULATE)
  return ::emulator::launch(kernel, grid, block, shared_bytes, stream, args...);
#else
  if (shared_bytes > kUnaskedSharedBytes) {
    const cudaError_t error = allow_dynamic_shared(reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) return error;
  }
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(args...);
  // clang-format on
  return cudaGetLastError();
#endif
}

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace ssd_cuda
