// Thread block clusters (sm_90 and later): blocks that run at the same time on neighbouring multiprocessors, wait for each
// other and reach each other's shared memory. The blocks of a cluster are neighbours along x. A kernel that needs them is
// launched by launch_clusters() where has_clusters() says so, and never elsewhere: what it does is compiled where
// kHasClusters.
//
// What the emulator reports where it is not kept: no access to another block's memory before a cluster barrier (it may not
// have begun) nor without one behind it (it may have ended), and between a write and the access of another block lies a
// barrier, unless both are atomic.
#pragma once

#include <tuple>

#include "launch.cuh"

namespace ssd_cuda {

#if defined(SSD_CUDA_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
constexpr bool kHasClusters = true;
#else
constexpr bool kHasClusters = false;
#endif

#if defined(SSD_CUDA_EMULATE)

using ::emulator::cluster_arrive;
using ::emulator::cluster_arrive_own;
using ::emulator::cluster_rank;
using ::emulator::cluster_size;
using ::emulator::cluster_wait;
using ::emulator::shared_of_block;

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// Of the block in its cluster, from 0 on; and how many blocks it has, 1 after a plain launch.
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// The two halves of a barrier for all threads of a cluster: what any of them did before it arrived can be seen by those that
// have waited. Every thread calls both, in turn.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// The same for writes to the block's own shared memory alone: the other one waits until all that the thread has written, to
// global memory and to other blocks too, can be seen by the whole card (MEMBAR.ALL.GPU).
__device__ __forceinline__ void cluster_arrive_own() {
#if __CUDACC_VER_MAJOR__ >= 13 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 8)
  asm volatile(
      "fence.release.sync_restrict::shared::cta.cluster;\n"
      "barrier.cluster.arrive.relaxed.aligned;" ::
          : "memory");
#else
  cluster_arrive();
#endif
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What the pointer into the block's own shared memory is in another block of the cluster. For loads, stores and atomics.
template <typename T>
__device__ __forceinline__ T* shared_of_block(T* shared, unsigned rank) {
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
  return there;
}

#else

__device__ __forceinline__ unsigned cluster_rank() { return 0; }
__device__ __forceinline__ unsigned cluster_size() { return 1; }
__device__ __forceinline__ void cluster_arrive() { __trap(); }
__device__ __forceinline__ void cluster_arrive_own() { __trap(); }
__device__ __forceinline__ void cluster_wait() { __trap(); }
template <typename T>
__device__ __forceinline__ T* shared_of_block(T* shared, unsigned) {
  return shared;
}

#endif

// Whether the current device launches this kernel in clusters: its code may be of an older architecture than the card.
inline bool has_clusters(const void* kernel) {
  static PerKernel<bool> known;
  return known_here(known, kernel, false, [&](int device) -> std::optional<bool> {
    int clusters = 0;
    cudaFuncAttributes attributes;
    const bool found =
        cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device) == cudaSuccess &&
        cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
    return found ? std::optional(clusters != 0 && attributes.ptxVersion >= 90) : std::nullopt;
  });
}

// How many clusters of such a launch the current device runs at the same time. A cluster lies in one part of the card, whose
// multiprocessors are seldom a multiple of 8: where the blocks alone would allow 33 clusters of 8 an H200 runs 30. 0: it
// cannot launch them, as on a part of a card.
template <typename... Params>
inline int64_t clusters_at_once(unsigned cluster, void (*kernel)(Params...), unsigned threads,
                                std::size_t shared_bytes) {
#if defined(SSD_CUDA_EMULATE)
  return ::emulator::clusters_at_once(cluster, kernel, threads, shared_bytes);
#else
  using Launch = std::tuple<const void*, unsigned, unsigned, std::size_t>;
  static PerKernel<int64_t, Launch> known;
  const auto* address = reinterpret_cast<const void*>(kernel);
  return known_here(known, Launch{address, cluster, threads, shared_bytes}, 0,
                    [&](int) -> std::optional<int64_t> {
                      cudaLaunchAttribute size{};
                      size.id = cudaLaunchAttributeClusterDimension;
                      size.val.clusterDim.x = cluster;
                      size.val.clusterDim.y = size.val.clusterDim.z = 1;
                      cudaLaunchConfig_t config{};
                      config.gridDim = dim3(cluster);
                      config.blockDim = dim3(threads);
                      config.dynamicSmemBytes = shared_bytes;
                      config.attrs = &size;
                      config.numAttrs = 1;
                      int count = 0;
                      const bool found =
                          allow_dynamic_shared(address) == cudaSuccess &&
                          cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess;
                      return found ? std::optional<int64_t>(count) : std::nullopt;
                    });
#endif
}

}  // namespace ssd_cuda
