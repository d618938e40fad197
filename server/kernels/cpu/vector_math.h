// bfloat16 and float32 vector helpers, AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace glidecape {

using bf16 = uint16_t;

inline __m512 load_bf16(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void widen(const bf16* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(to + i, load_bf16(from + i));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// Round to nearest even.
inline void store_bf16(bf16* p, __m512 value) {
  const __m256bh rounded = _mm512_cvtneps_pbh(value);
  std::memcpy(p, &rounded, sizeof rounded);
}

// Activations are kept as floats or rounded to bfloat16, whichever the matrix product takes.
inline void store(float* p, __m512 value) { _mm512_storeu_ps(p, value); }
inline void store(bf16* p, __m512 value) { store_bf16(p, value); }

inline __m512bh load_pairs(const bf16* p) {
  __m512bh result;
  std::memcpy(&result, p, sizeof result);
  return result;
}

// e^x, relative error about 2e-7; 0 below -103.
inline __m512 exp_ps(__m512 x) {
  const __m512 log2e = _mm512_set1_ps(1.44269504088896341f);
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order, NaN stays NaN
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

}  // namespace glidecape
