// A fused multiply-add for processors without the instruction. The library's is a call a lane, and where the processor has
// none it changes the rounding mode back and forth.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>

namespace ssd_cuda {
namespace detail {

// a * b + c of floats, as doubles that round to float as the exact sum does. The product is exact. The sum is rounded to
// odd: of the two doubles around the exact value the one whose last bit is set (Boldo and Melquiond, "Emulation of FMA
// and correctly rounded sums", 2008); it is no tie of floats unless the exact value is one.
inline __attribute__((always_inline)) __m128d fma_odd(__m128d a, __m128d b, __m128d c) {
  const __m128d product = _mm_mul_pd(a, b), sum = _mm_add_pd(product, c);
  const __m128d rest = _mm_sub_pd(sum, product);
  const __m128d lost = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, rest)), _mm_sub_pd(c, rest));
  const __m128d zero = _mm_setzero_pd();
  // Towards zero first, then the last bit. Of infinities and NaN `lost` is NaN: neither mask is set.
  const __m128d smaller = _mm_cmplt_pd(_mm_mul_pd(lost, sum), zero);
  const __m128d larger = _mm_cmpgt_pd(_mm_mul_pd(lost, sum), zero);
  const __m128i bits = _mm_add_epi64(_mm_castpd_si128(sum), _mm_castpd_si128(smaller));
  const __m128i odd = _mm_srli_epi64(_mm_castpd_si128(_mm_or_pd(smaller, larger)), 63);
  return _mm_castsi128_pd(_mm_or_si128(bits, odd));
}

inline __attribute__((always_inline)) __m128 fma_sse2(__m128 a, __m128 b, __m128 c) {
  const __m128d low = fma_odd(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c));
  const auto upper = [](__m128 v) { return _mm_cvtps_pd(_mm_movehl_ps(v, v)); };
  const __m128d high = fma_odd(upper(a), upper(b), upper(c));
  return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
inline __attribute__((always_inline)) float fma_sse2(float a, float b, float c) {
  const __m128d d = fma_odd(_mm_set_sd(a), _mm_set_sd(b), _mm_set_sd(c));
  return _mm_cvtss_f32(_mm_cvtpd_ps(d));
}

}  // namespace detail
}  // namespace ssd_cuda
#endif
