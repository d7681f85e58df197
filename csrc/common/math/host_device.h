// What lets one line of arithmetic serve the CPU kernels, the CUDA kernels and the tests with the same bits.
#pragma once

#if defined(__FAST_MATH__)
#error "not to be compiled with -ffast-math: the kernels give the same bits on every device"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#define SSD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SSD_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace ssd_cuda {

// Arithmetic type of a storage type: fp64 computes in fp64, everything else in fp32.
template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename To, typename From>
SSD_HOST_DEVICE To bit_copy(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit copy keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Separately rounded operations. nvcc contracts a * b + c into one fused operation, which moves the best
// prior of 0.5% of ground truths; the host is compiled with -ffp-contract=off, so plain operators do there.
SSD_HOST_DEVICE float add_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
SSD_HOST_DEVICE float mul_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
SSD_HOST_DEVICE float div_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
// a * b + c, rounded once. On a host without the instruction a library function gives the same bits, slowly.
SSD_HOST_DEVICE float fma_rn(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
SSD_HOST_DEVICE double add_rn(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
SSD_HOST_DEVICE double mul_rn(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
SSD_HOST_DEVICE double div_rn(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __ddiv_rn(a, b);
#else
  return a / b;
#endif
}
#if !defined(__CUDA_ARCH__)
// Vectors of the CPU kernels (simd.h): the same formulas, lane by lane.
template <typename V>
SSD_HOST_DEVICE V add_rn(V a, V b) {
  return a + b;
}
template <typename V>
SSD_HOST_DEVICE V mul_rn(V a, V b) {
  return a * b;
}
template <typename V>
SSD_HOST_DEVICE V div_rn(V a, V b) {
  return a / b;
}
#endif
template <typename T>
SSD_HOST_DEVICE T sub_rn(T a, T b) {
  return add_rn(a, -b);
}

// The smaller and the larger, of numbers; what a NaN gives is not said. The pattern that every compiler turns
// into one instruction, for scalars and vectors.
template <typename T>
SSD_HOST_DEVICE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
SSD_HOST_DEVICE T max_of(T a, T b) {
  return a > b ? a : b;
}

// The same where every caller throws a NaN out later: one instruction on the card too, where the pattern above is a
// comparison and a selection.
template <typename T>
SSD_HOST_DEVICE T min_number(T a, T b) {
#if defined(__CUDA_ARCH__)
  return ::fmin(a, b);
#else
  return min_of(a, b);
#endif
}
template <typename T>
SSD_HOST_DEVICE T max_number(T a, T b) {
#if defined(__CUDA_ARCH__)
  return ::fmax(a, b);
#else
  return max_of(a, b);
#endif
}

// torch.minimum / torch.maximum: a NaN on either side gives NaN, so a bad box never looks like a good one.
template <typename T>
SSD_HOST_DEVICE T min_nan(T a, T b) {
  return (a < b || a != a) ? a : b;
}
template <typename T>
SSD_HOST_DEVICE T max_nan(T a, T b) {
  return (a > b || a != a) ? a : b;
}

}  // namespace ssd_cuda
