// The kernel launch and the few functions of the CUDA runtime that a launcher calls.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "device.h"

namespace emulator {

// kernel<<<grid, block, shared_bytes>>>(args...), finished on return. Each thread gets its own copy of args. kOverlap:
// where the kernel may begin before the one before it has ended, it has to wait for it (after_previous_kernel).
// cluster: the blocks of a cluster, neighbours along x.
template <Overlap kOverlap = Overlap::kNone, typename... Params>
cudaError_t launch_clusters(unsigned cluster, void (*kernel)(Params...), dim3 grid, dim3 block,
                            std::size_t shared_bytes, cudaStream_t,
                            const std::type_identity_t<Params>&... args) {
  auto body = [&] { kernel(args...); };
  return run_grid(
      reinterpret_cast<const void*>(kernel), {grid, block, cluster, shared_bytes, kOverlap},
      [](void* argument) { (*static_cast<decltype(body)*>(argument))(); }, &body);
}
template <Overlap kOverlap = Overlap::kNone, typename... Params>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
                   cudaStream_t stream, const std::type_identity_t<Params>&... args) {
  return launch_clusters<kOverlap>(1, kernel, grid, block, shared_bytes, stream, args...);
}

}  // namespace emulator

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                     ? "no error"
         : error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
         : error == cudaErrorInvalidClusterSize   ? "a cluster size that the launch cannot have"
         : error == cudaErrorNotSupported         ? "operation not supported"
         : error == cudaErrorMemoryAllocation     ? "out of memory"
                                                  : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* address, int byte, std::size_t bytes, cudaStream_t) {
  emulator::end_of_kernels();
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
  emulator::end_of_kernels();
  if (bytes) std::memmove(to, from, bytes);
  emulator::checker_mark_initialized(to, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  return *device = emulator::device_index(), cudaSuccess;
}
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrClusterLaunch = 120,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulator::Device& device = emulator::device();
  *value = attribute == cudaDevAttrMultiProcessorCount           ? device.multiprocessors
           : attribute == cudaDevAttrMaxThreadsPerMultiProcessor ? device.threads_per_multiprocessor
           : attribute == cudaDevAttrClusterLaunch               ? device.clusters()
                                                   : static_cast<int>(device.shared_per_block);
  return cudaSuccess;
}
struct cudaFuncAttributes {
  std::size_t sharedSizeBytes;
  int ptxVersion;
};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {emulator::static_shared_of(kernel), emulator::device().architecture};
  return cudaSuccess;
}
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute which, int value) {
  if (which ==
      cudaFuncAttributePreferredSharedMemoryCarveout) {  // a percentage; it changes no result
    return value >= 0 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue;
  }
  return emulator::allow_shared(kernel, value);
}
template <typename Kernel>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel* kernel,
                                                                 int threads, std::size_t dynamic) {
  const emulator::Device& device = emulator::device();
  const std::size_t shared = dynamic + emulator::kSharedReserved +
                             emulator::static_shared_of(reinterpret_cast<const void*>(kernel));
  const int by_shared = static_cast<int>(device.shared_per_multiprocessor / shared);
  *blocks = threads > 0 ? device.threads_per_multiprocessor / threads : 0;
  *blocks = std::min({*blocks, by_shared, device.blocks_per_multiprocessor});
  return cudaSuccess;
}

namespace emulator {
// Of a launch: a cluster lies in one part of the card, of 16 multiprocessors.
template <typename Kernel>
int64_t clusters_at_once(unsigned cluster, Kernel* kernel, unsigned threads, std::size_t dynamic) {
  int blocks = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(threads),
                                                dynamic);
  const int part = std::min(16, device().multiprocessors);
  return int64_t{device().multiprocessors / part} * (part * blocks / static_cast<int>(cluster));
}
}  // namespace emulator
