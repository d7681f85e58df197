// The kernel launch and the few functions of the CUDA runtime that a launcher calls.
#pragma once

#include <cstring>
#include <type_traits>

#include "runtime.h"

namespace emulator {

// kernel<<<grid, block, shared_bytes>>>(args...), finished on return. Each thread gets its own copy of args.
template <typename... Params>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
                   cudaStream_t, const std::type_identity_t<Params>&... args) {
  auto body = [&] { kernel(args...); };
  return run_grid(
      grid, block, shared_bytes,
      [](void* argument) { (*static_cast<decltype(body)*>(argument))(); }, &body);
}

// The figures of an H100, from which launchers choose grids.
constexpr int kMultiprocessors = 132;
constexpr int kMaxThreadsPerMultiprocessor = 2048;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;

}  // namespace emulator

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                     ? "no error"
         : error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
         : error == cudaErrorMemoryAllocation     ? "out of memory"
                                                  : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* address, int byte, std::size_t bytes, cudaStream_t) {
  if (bytes) std::memset(address, byte, bytes);
  emulator::checker_mark_initialized(address, bytes);
  return cudaSuccess;
}

enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  if (bytes) std::memmove(to, from, bytes);
  emulator::checker_mark_initialized(to, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::kMultiprocessors
           : attribute == cudaDevAttrMaxThreadsPerMultiProcessor
               ? emulator::kMaxThreadsPerMultiprocessor
               : int(emulator::kMaxSharedBytes);
  return cudaSuccess;
}
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <typename Kernel>
inline cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <typename Kernel>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads,
                                                                 std::size_t) {
  *blocks = threads > 0 ? emulator::kMaxThreadsPerMultiprocessor / threads : 0;
  return cudaSuccess;
}
