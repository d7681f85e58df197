// The one place that launches a kernel, and asks the device what a launch may have. Everything else in a <family>.cuh is plain C++ plus the CUDA built-ins,
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
#include <cstdint>
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

// Dynamic shared memory that a block of the current device may have beside static_bytes of static; 0 if it does not
// say. What a kernel plans by where more of it is faster: the same kernel gets 64 KB in all on sm_75, 99 on sm_86, 163
// on sm_80, 227 on sm_90.
inline std::size_t dynamic_shared_room(std::size_t static_bytes) {
  int device = 0, most = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    cudaGetLastError();  // nobody else's failure
    return 0;
  }
  const auto room = static_cast<std::size_t>(most);
  return room > static_bytes ? room - static_bytes : 0;
}

// Multiprocessors of the current device, 1 if it does not say: what a launch divides its work by.
inline int64_t multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    cudaGetLastError();  // nobody else's failure
    return 1;
  }
  return count;
}

// When the blocks of a kernel take their places: while the last ones of the kernel before it on the stream still run (from
// sm_90 on), or after its end. kBeside: early, and such a kernel works before it waits, on what the kernel before it does
// not touch; that one must be of after_all_before().
enum class Start { kEarly, kBeside, kAfter };

// The first thing that every thread of a kernel does (but of Start::kBeside), before it touches global memory;
// tests/test_kernel_instructions.py reads that in each kernel's PTX, the emulator sees it at each access. A kernel that was
// launched early waits here until all that the one before it wrote can be seen. Every block waits, so that what comes after
// this kernel comes after that one too.
__device__ __forceinline__ void after_previous_kernel() {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::after_previous_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();  // an early kernel may take what places are left
  cudaGridDependencySynchronize();
#endif
}

// The same for a kernel that the next one may run beside: that is let in only when all before this one has ended, so that
// it comes after that, though not after this one.
__device__ __forceinline__ void after_all_before() {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::after_all_before();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// What is known of a kernel on the current device; `otherwise` where the driver does not say, whose failure is nobody else's.
// ask(device): std::nullopt where it fails.
template <typename Value, typename Kernel, typename Ask>
inline Value known_here(PerKernel<Value, Kernel>& known, const Kernel& kernel,
                        std::type_identity_t<Value> otherwise, const Ask& ask) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();  // nobody else's failure
    return otherwise;
  }
  return known(kernel, device, otherwise, [&] {
    const std::optional<Value> found = ask(device);
    if (!found) cudaGetLastError();
    return found;
  });
}

// Asks for the multiprocessors' memory as shared memory, with no more L1 than must be: of a kernel that needs little of
// either, beside which another is to find room. A wish: where it cannot be had nothing is lost but that.
inline void prefer_shared_memory(const void* kernel) {
  static PerKernel<bool> asked;
  known_here(asked, kernel, false, [&](int) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100) ==
                   cudaSuccess
               ? std::optional(true)
               : std::nullopt;
  });
}

#if !defined(SSD_CUDA_EMULATE)
// Whether after_previous_kernel() waits in this kernel, whose code may be of an older architecture than the card, and
// whether the driver can put such a launch into a graph (CUDA 12.3).
inline bool may_overlap(const void* kernel) {
  static PerKernel<bool> known;
  return known_here(known, kernel, false, [&](int) -> std::optional<bool> {
    int driver = 0;
    cudaFuncAttributes attributes;
    const bool found = cudaDriverGetVersion(&driver) == cudaSuccess &&
                       cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
    return found ? std::optional(driver >= 12030 && attributes.ptxVersion >= 90) : std::nullopt;
  });
}
#endif

// As many blocks as a cluster may have on every card that has clusters.
constexpr unsigned kMostInCluster = 8;

// cluster: neighbouring blocks along x that run at the same time (cluster.cuh), a divisor of grid.x; 1: nothing is asked for.
template <Start kStart = Start::kEarly, typename... Params>
inline cudaError_t launch_clusters(unsigned cluster, void (*kernel)(Params...), dim3 grid,
                                   dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                                   std::type_identity_t<Params>... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;  // nothing to do
  if (shared_bytes > kUnaskedSharedBytes) {
    const cudaError_t error = allow_dynamic_shared(reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) return error;
  }
#if defined(SSD_CUDA_EMULATE)
  constexpr auto kOverlap =
      kStart == Start::kBeside ? ::emulator::Overlap::kBeside : ::emulator::Overlap::kWaits;
  return ::emulator::launch_clusters<kOverlap>(cluster, kernel, grid, block, shared_bytes, stream,
                                               args...);
#else
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (kStart != Start::kAfter && may_overlap(reinterpret_cast<const void*>(kernel))) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, args...);
#endif
}

template <Start kStart = Start::kEarly, typename... Params>
inline cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block,
                          std::size_t shared_bytes, cudaStream_t stream,
                          std::type_identity_t<Params>... args) {
  return launch_clusters<kStart>(1, kernel, grid, block, shared_bytes, stream, args...);
}

// A load and a store of one number that other threads may load and store at the same time, other blocks included. They
// order nothing and may be late: the result of a kernel must not depend on which of the stored numbers is seen.
template <typename T>
__device__ __forceinline__ T load_relaxed(const T* address) {
#if defined(SSD_CUDA_EMULATE)
  return ::emulator::load_relaxed(address);
#else
  return *static_cast<const volatile T*>(address);
#endif
}
template <typename T>
__device__ __forceinline__ void store_relaxed(T* address, std::type_identity_t<T> value) {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::store_relaxed(address, value);
#else
  *static_cast<volatile T*>(address) = value;
#endif
}

// Taken from the blocks that a kernel asks for a multiprocessor where ptxas, for 8.6 and 8.7 alone, would put some bytes of
// it on the stack to fit them in.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870)
constexpr int kBlocksLess = 1;
#else
constexpr int kBlocksLess = 0;
#endif

constexpr unsigned kFullWarp = 0xffffffffu;  // the mask of all lanes

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace ssd_cuda
