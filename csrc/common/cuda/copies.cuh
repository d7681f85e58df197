// Copies from global to shared memory that pass the registers by, so that a thread can have any number on their way; on
// sm_75 loads and stores. A thread sees its own after the wait, the others' after a barrier behind that.
#pragma once

#include "launch.cuh"
#if !defined(SSD_CUDA_EMULATE)
#include <cuda_pipeline.h>
#endif

namespace ssd_cuda {

// Asks for 16 bytes.
__device__ __forceinline__ void copy_async(uint4* shared, const uint4* global) {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::copy_async(shared, global);
#else
  __pipeline_memcpy_async(shared, global, sizeof(uint4));
#endif
}
// The same kVectors further on in both, where it is wanted, in one instruction: left to itself the compiler reckons the two
// addresses anew for each of a thread's copies.
template <int kVectors>
__device__ __forceinline__ void copy_async(uint4* shared, const uint4* global, bool wanted) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(SSD_CUDA_EMULATE)
  asm volatile(
      "{\n .reg .pred wanted;\n setp.ne.b32 wanted, %3, 0;\n"
      " @wanted cp.async.cg.shared.global [%0 + %2], [%1 + %2], 16;\n}" ::"r"(
          static_cast<unsigned>(__cvta_generic_to_shared(shared))),
      "l"(__cvta_generic_to_global(global)), "n"(kVectors * sizeof(uint4)),
      "r"(static_cast<int>(wanted))
      : "memory");
#else
  if (wanted) copy_async(shared + kVectors, global + kVectors);
#endif
}
// Ends a group of what the thread has asked for since the last one, so that it can wait for all groups but the newest.
__device__ __forceinline__ void end_copies() {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::end_copies();
#else
  __pipeline_commit();
#endif
}
template <int kNewest>
__device__ __forceinline__ void wait_copies_but() {
#if defined(SSD_CUDA_EMULATE)
  ::emulator::wait_copies(kNewest);
#else
  __pipeline_wait_prior(kNewest);
#endif
}
__device__ __forceinline__ void wait_copies() {
  end_copies();
  wait_copies_but<0>();
}

}  // namespace ssd_cuda
