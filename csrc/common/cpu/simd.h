// Run-time choice of the instruction set: one portable binary, loops compiled for AVX2 and AVX-512 too.
//
//   with_simd([&](auto bytes) SSD_SIMD_BODY {
//     using V = Pack<float, decltype(bytes)::value / 4>;
//     ...
//   });
//
// compiles the lambda once per level and runs the best one this processor has. Everything it calls is
// inlined into it (flatten). bytes is the width of a vector register: a Pack of that width becomes single
// instructions, a wider one is lowered badly (selects become scalar; so do 512-bit masks that are combined or
// stored: g++ lowers them before it inlines, while a < b ? a : b stays one instruction). Loops over plain arrays are seldom
// vectorised behind the lambda's captures: write Packs. Contraction is off, so every level gives the same
// bits as long as the code fixes the order of its sums independently of the width.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>  // declares the builtins of fma_pack and load_floats
#endif

#define SSD_SIMD_BODY __attribute__((always_inline))

namespace ssd_cuda {

enum class SimdLevel : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

inline const char* simd_name(SimdLevel level) {
  return level == SimdLevel::kAvx512 ? "avx512" : level == SimdLevel::kAvx2 ? "avx2" : "baseline";
}

namespace detail {
inline SimdLevel detect_simd() {
  SimdLevel best = SimdLevel::kBaseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    best = SimdLevel::kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = SimdLevel::kAvx512;
    }
  }
#endif
  const char* wanted = std::getenv("SSD_CUDA_SIMD");  // lowers the level, for tests
  for (int level = 0; wanted != nullptr && level < static_cast<int>(best); ++level) {
    if (std::strcmp(wanted, simd_name(SimdLevel(level))) == 0) return SimdLevel(level);
  }
  return best;
}

template <typename Fn>
__attribute__((flatten, noinline)) void simd_baseline(const Fn& fn) {
  fn(std::integral_constant<int, 16>{});
}
#if defined(__x86_64__)
template <typename Fn>
__attribute__((flatten, noinline, target("avx2,fma,f16c"))) void simd_avx2(const Fn& fn) {
  fn(std::integral_constant<int, 32>{});
}
template <typename Fn>
__attribute__((
    flatten, noinline,
    target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512"))) void
simd_avx512(const Fn& fn) {
  fn(std::integral_constant<int, 64>{});
}
#endif
}  // namespace detail

// The level this process runs.
inline SimdLevel simd_level() {
  static const SimdLevel level = detail::detect_simd();
  return level;
}

template <typename Fn>
inline void with_simd(const Fn& fn) {
#if defined(__x86_64__)
  if (simd_level() == SimdLevel::kAvx512) return detail::simd_avx512(fn);
  if (simd_level() == SimdLevel::kAvx2) return detail::simd_avx2(fn);
#endif
  detail::simd_baseline(fn);
}

// N numbers that are added, compared (a > b gives integer lanes 0 or -1) and selected (mask ? a : b) lane by
// lane: a GCC vector. V{} + scalar broadcasts.
template <typename T, int N>
struct PackOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Pack = typename PackOf<T, N>::type;

template <typename V, typename T>
SSD_SIMD_BODY inline V load_pack(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V, typename T>
SSD_SIMD_BODY inline void store_pack(T* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}

// a * b + c of floats, rounded once. The builtins, since an intrinsic cannot be inlined into a generic lambda;
// the plain level has no such instruction and calls the library for each lane.
template <typename V>
SSD_SIMD_BODY inline V fma_pack(V a, V b, V c) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 64) {
    return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, _MM_FROUND_CUR_DIRECTION);
  } else if constexpr (sizeof(V) == 32) {
    return __builtin_ia32_vfmaddps256(a, b, c);
  }
#endif
  V y = c;
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(float)); ++i) {
    y[i] = __builtin_fmaf(a[i], b[i], c[i]);
  }
  return y;
}

// max_of of floats where a is a constant: there g++ 12 takes a comparison and a blend instead of one maximum.
template <typename V>
SSD_SIMD_BODY inline V max_of_constant(V a, V b) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 32) return __builtin_ia32_maxps256(a, b);
#endif
  return a > b ? a : b;
}

}  // namespace ssd_cuda
