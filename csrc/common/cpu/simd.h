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

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "fma_sse2.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>  // declares the builtins of fma_pack and halves_to_floats
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define SSD_SIMD_BODY __attribute__((always_inline))

// Every difference between compilers that the CPU kernels meet is met here. clang unrolls short loops of constant length
// by itself, has no prefer-vector-width (it takes 512 bits where they are written), and checks the instruction set of a
// builtin where it is called, in the lambda: there vectors are written in its generic builtins.
#if defined(__clang__)
#define SSD_UNROLL
#define SSD_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#else
#define SSD_UNROLL _Pragma("GCC unroll 16")
#define SSD_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512"
#endif

namespace ssd_cuda {

// kBaseline is what every processor of the architecture has: SSE2, or NEON.
enum class SimdLevel : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

inline const char* simd_name(SimdLevel level) {
#if defined(__aarch64__)
  if (level == SimdLevel::kBaseline) return "neon";
#endif
  return level == SimdLevel::kAvx512 ? "avx512" : level == SimdLevel::kAvx2 ? "avx2" : "baseline";
}

// The highest level that this processor has; it has those below too.
inline SimdLevel best_simd() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  __builtin_cpu_init();
  if (has_f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has_512 ? SimdLevel::kAvx512 : SimdLevel::kAvx2;
  }
#endif
  return SimdLevel::kBaseline;
}

// The level that the kernels of this process run: the best one, the one that SSD_CUDA_SIMD names, or what set() was
// given last. All give the same bits.
class SimdChoice {
 public:
  static SimdChoice& get() {
    static SimdChoice choice;
    return choice;
  }
  SimdLevel level() const { return level_.load(std::memory_order_relaxed); }
  // What is wrong with SSD_CUDA_SIMD, as a sentence, or "".
  const std::string& problem() const { return problem_; }

  // False where this processor has no level of that name.
  bool set(const std::string& name) {
    for (int level = static_cast<int>(best_simd()); level >= 0; --level) {
      if (name != simd_name(SimdLevel(level))) continue;
      level_.store(SimdLevel(level), std::memory_order_relaxed);
      return true;
    }
    return false;
  }
  // The names that set() takes, best first.
  static std::string names(const char* separator) {
    std::string all;
    for (int level = static_cast<int>(best_simd()); level >= 0; --level) {
      all += (all.empty() ? "" : separator) + std::string(simd_name(SimdLevel(level)));
    }
    return all;
  }

 private:
  SimdChoice() : level_(best_simd()) {
    const char* wanted = std::getenv("SSD_CUDA_SIMD");
    if (wanted == nullptr || *wanted == 0 || set(wanted)) return;
    problem_ = "SSD_CUDA_SIMD must name an instruction set of this processor (" + names(", ") +
               "), got '" + wanted + "'";
  }
  std::atomic<SimdLevel> level_;
  std::string problem_;
};

inline SimdLevel simd_level() { return SimdChoice::get().level(); }

namespace detail {
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
__attribute__((flatten, noinline, target(SSD_AVX512))) void simd_avx512(const Fn& fn) {
  fn(std::integral_constant<int, 64>{});
}
#endif
}  // namespace detail

template <typename Fn>
inline void with_simd(const Fn& fn) {
#if defined(__x86_64__)
  const SimdLevel level = simd_level();
  if (level == SimdLevel::kAvx512) return detail::simd_avx512(fn);
  if (level == SimdLevel::kAvx2) return detail::simd_avx2(fn);
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

template <typename V>
using LaneOf = std::remove_cvref_t<decltype(std::declval<V>()[0])>;
template <typename V>
constexpr int kLanesOf = sizeof(V) / sizeof(LaneOf<V>);

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

// Lanes kLane... of a and b side by side. The lanes are a constant list, else a shuffle becomes a loop over them.
template <int... kLane, typename V>
SSD_SIMD_BODY inline V shuffle_packs(V a, V b) {
  static_assert(sizeof...(kLane) == kLanesOf<V>);
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, kLane...);
#else  // g++ 11
  return __builtin_shuffle(a, b, decltype(a < b){kLane...});
#endif
}

// a and b side by side.
template <typename V, int... kLane>
SSD_SIMD_BODY inline auto concat_packs(V a, V b, std::integer_sequence<int, kLane...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, kLane...);
#else
  const V parts[2] = {a, b};
  return load_pack<Pack<LaneOf<V>, 2 * kLanesOf<V>>>(parts);
#endif
}
template <typename V>
SSD_SIMD_BODY inline auto concat_packs(V a, V b) {
  return concat_packs(a, b, std::make_integer_sequence<int, 2 * kLanesOf<V>>{});
}

// a * b + c of floats, rounded once. The builtins, since an intrinsic cannot be inlined into a generic lambda.
template <typename V>
SSD_SIMD_BODY inline V fma_pack(V a, V b, V c) {
#if defined(__aarch64__)
  if constexpr (sizeof(V) == 16) return V(vfmaq_f32(c, a, b));
#elif defined(__x86_64__)
  if constexpr (sizeof(V) == 16) {
    return V(detail::fma_sse2(__m128(a), __m128(b), __m128(c)));
#if !defined(__clang__)
  } else if constexpr (sizeof(V) == 64) {
    return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, _MM_FROUND_CUR_DIRECTION);
  } else if constexpr (sizeof(V) == 32) {
    return __builtin_ia32_vfmaddps256(a, b, c);
#endif
  }
#endif
  V y = c;  // clang joins these into one instruction of the lambda's instruction set
  for (int i = 0; i < kLanesOf<V>; ++i) y[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return y;
}
// The same of numbers, in a lambda whose registers have kBytes.
template <int kBytes>
SSD_SIMD_BODY inline float fma_number(float a, float b, float c) {
#if defined(__x86_64__)
  if constexpr (kBytes == 16) return detail::fma_sse2(a, b, c);
#endif
  return __builtin_fmaf(a, b, c);
}

// Halves as floats. What no instruction does the caller must.
template <typename V>
constexpr bool kConvertsHalves =
#if defined(__aarch64__)
    sizeof(V) == 16;
#elif defined(__x86_64__) && !defined(__clang__)
    sizeof(V) >= 32;
#else
    false;
#endif
template <typename V>
SSD_SIMD_BODY inline V halves_to_floats(Pack<uint16_t, kLanesOf<V>> half) {
#if defined(__aarch64__)
  return V(vcvt_f32_f16(vreinterpret_f16_u16(half)));
#elif defined(__x86_64__) && !defined(__clang__)
  if constexpr (sizeof(V) == 64) {
    return __builtin_ia32_vcvtph2ps512_mask(Pack<short, 16>(half), V{}, -1,
                                            _MM_FROUND_CUR_DIRECTION);
  } else {
    return __builtin_ia32_vcvtph2ps256(Pack<short, 8>(half));
  }
#else
  return V{} + static_cast<float>(half[0]);  // not called
#endif
}

// 16-bit numbers as 32-bit ones.
template <typename U>
SSD_SIMD_BODY inline U widen(Pack<uint16_t, kLanesOf<U>> half) {
#if defined(__aarch64__)
  if constexpr (kLanesOf<U> == 2) {  // g++ 12 converts lane by lane
    uint32_t both;
    std::memcpy(&both, &half, sizeof both);
    return U(vget_low_u32(vmovl_u16(vreinterpret_u16_u32(vdup_n_u32(both)))));
  } else {
    return U(vmovl_u16(half));
  }
#else
  return __builtin_convertvector(half, U);
#endif
}

// Bytes 0x00 or 0xff from a mask (lanes 0 or -1), lane by lane, in the low bytes of words.
template <typename M>
SSD_SIMD_BODY inline void mask_bytes(M mask, uint64_t* words) {
#if defined(__aarch64__)
  if constexpr (sizeof(M) == 16) {  // as above
    const uint32x2_t two = vmovn_u64(uint64x2_t(mask));
    uint16x4_t four = vmovn_u32(vcombine_u32(two, two));
    if constexpr (kLanesOf<M> == 4) four = vmovn_u32(uint32x4_t(mask));
    const uint64_t bytes =
        vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(vcombine_u16(four, four))), 0);
    words[0] = bytes & ((uint64_t{1} << (8 * kLanesOf<M>)) - 1);
    return;
  }
#endif
  const auto bytes = __builtin_convertvector(mask, Pack<int8_t, kLanesOf<M>>);
  std::memcpy(words, &bytes, sizeof bytes);
}

// Bit i tells whether a[i] >= b[i], or a[i] > b[i] unless kEqual.
template <bool kEqual, typename V>
SSD_SIMD_BODY inline uint32_t compare_bits(V a, V b) {
#if defined(__x86_64__) && !defined(__clang__)
  constexpr bool kWide = sizeof(LaneOf<V>) == 8;
  constexpr int kTest = kEqual ? _CMP_GE_OQ : _CMP_GT_OQ;
  const auto mask = [&]() SSD_SIMD_BODY { return kEqual ? V(a >= b) : V(a > b); };
  if constexpr (sizeof(V) == 64 && kWide) {
    return __builtin_ia32_cmppd512_mask(a, b, kTest, -1, _MM_FROUND_CUR_DIRECTION);
  } else if constexpr (sizeof(V) == 64) {
    return __builtin_ia32_cmpps512_mask(a, b, kTest, -1, _MM_FROUND_CUR_DIRECTION);
  } else if constexpr (sizeof(V) == 32 && kWide) {
    return __builtin_ia32_movmskpd256(mask());
  } else if constexpr (sizeof(V) == 32) {
    return __builtin_ia32_movmskps256(mask());
  } else if constexpr (kWide) {
    return __builtin_ia32_movmskpd(mask());
  } else {
    return __builtin_ia32_movmskps(mask());
  }
#else
  constexpr int kWords = (kLanesOf<V> + 7) / 8;
  uint64_t words[kWords] = {};
  mask_bytes(kEqual ? a >= b : a > b, words);
  uint32_t bits = 0;
  for (int i = 0; i < kWords; ++i) {  // the last bit of each byte, side by side
    const uint64_t last = words[i] & 0x0101010101010101u;
    bits |= static_cast<uint32_t>((last * 0x0102040810204080u) >> 56) << (8 * i);
  }
  return bits;
#endif
}

// max_of of floats where a is a constant: there g++ 12 takes a comparison and a blend instead of one maximum.
template <typename V>
SSD_SIMD_BODY inline V max_of_constant(V a, V b) {
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (sizeof(V) == 64) {
    return __builtin_ia32_maxps512_mask(a, b, V{}, -1, _MM_FROUND_CUR_DIRECTION);
  } else if constexpr (sizeof(V) == 32) {
    return __builtin_ia32_maxps256(a, b);
  }
#endif
  return a > b ? a : b;
}

}  // namespace ssd_cuda
