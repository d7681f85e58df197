// The words of CUDA C++ that g++ does not know: qualifiers, vector types, dim3, error codes.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>

#define __host__
#define __device__
#define __global__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__
// A thread-local lives in the module's TLS segment and nowhere else, template or not: static_shared.cpp finds
// every such variable there. (A section attribute would be simpler, but g++ ignores it inside templates.)
#define __shared__ static thread_local

#define EMULATOR_VECTOR_TYPES(base, name, align2, align4)                     \
  struct name##1 { base x; };                                                 \
  struct alignas(align2) name##2 { base x, y; };                              \
  struct name##3 { base x, y, z; };                                           \
  struct alignas(align4) name##4 { base x, y, z, w; };                        \
  inline name##1 make_##name##1(base x) { return {x}; }                       \
  inline name##2 make_##name##2(base x, base y) { return {x, y}; }            \
  inline name##3 make_##name##3(base x, base y, base z) { return {x, y, z}; } \
  inline name##4 make_##name##4(base x, base y, base z, base w) { return {x, y, z, w}; }

EMULATOR_VECTOR_TYPES(signed char, char, 2, 4)
EMULATOR_VECTOR_TYPES(unsigned char, uchar, 2, 4)
EMULATOR_VECTOR_TYPES(short, short, 4, 8)
EMULATOR_VECTOR_TYPES(unsigned short, ushort, 4, 8)
EMULATOR_VECTOR_TYPES(int, int, 8, 16)
EMULATOR_VECTOR_TYPES(unsigned int, uint, 8, 16)
EMULATOR_VECTOR_TYPES(long long, longlong, 16, 16)
EMULATOR_VECTOR_TYPES(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTOR_TYPES(float, float, 8, 16)
EMULATOR_VECTOR_TYPES(double, double, 16, 16)
#undef EMULATOR_VECTOR_TYPES

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotSupported = 801,
  cudaErrorInvalidClusterSize = 912,
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;
