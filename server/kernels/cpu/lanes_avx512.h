// lanes.h for AVX-512: one register. It uses no BF16 instructions: a CPU with VNNI may lack them.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace glidecape {

constexpr int kTileLanes = 24;  // of 32 registers

using Lanes = __m512;
using IntLanes = __m512i;

inline Lanes all(float x) { return _mm512_set1_ps(x); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes fnma(Lanes a, Lanes b, Lanes c) { return _mm512_fnmadd_ps(a, b, c); }
inline Lanes min(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
inline Lanes max(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes abs(Lanes x) { return _mm512_abs_ps(x); }
inline Lanes round(Lanes x) { return _mm512_roundscale_ps(x, 0); }
inline Lanes times_power_of_two(Lanes x, Lanes n) { return _mm512_scalef_ps(x, n); }
inline float sum(Lanes x) { return _mm512_reduce_add_ps(x); }
inline float largest(Lanes x) { return _mm512_reduce_max_ps(x); }

inline Lanes load(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes load_first(const float* p, int count, float rest) {
  const auto inside = static_cast<__mmask16>((1u << std::min(16, count)) - 1);
  return _mm512_mask_loadu_ps(all(rest), inside, p);
}
inline Lanes load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline Lanes load_half(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Lanes load_bytes(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
inline void store(float* p, Lanes x) { _mm512_storeu_ps(p, x); }

// To the nearest, ties to even.
inline void store(bf16* p, Lanes x) {
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
}

inline unsigned greater(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline bool unordered(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }

inline IntLanes to_ints(Lanes x) { return _mm512_cvtps_epi32(x); }
inline IntLanes load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline Lanes to_floats(IntLanes x) { return _mm512_cvtepi32_ps(x); }
inline int sum(IntLanes x) { return _mm512_reduce_add_epi32(x); }

inline Lanes low_bf16(IntLanes pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline Lanes high_bf16(IntLanes pairs) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
}

// r[i] lane j -> r[j] lane i
inline void turn_over(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // r[i + j] block b: column 4b + j of rows i … i + 3
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    const __m512i even1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i odd0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i odd1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
  std::copy(t, t + 16, r);
}

inline void turn_keys(const bf16* const* keys, float* to, int64_t stride) {
  __m512i pairs[16];  // of neighbours in a row: a row per vector, then a pair per vector
  for (int i = 0; i < 16; ++i) pairs[i] = load_ints(keys[i]);
  turn_over(pairs);
  for (int i = 0; i < 16; ++i) {
    store(to + 2 * i * stride, low_bf16(pairs[i]));
    store(to + (2 * i + 1) * stride, high_bf16(pairs[i]));
  }
}

inline void turn_keys(const float* const* keys, float* to, int64_t stride) {
  for (int d = 0; d < 32; d += 16) {
    __m512i rows[16];
    for (int i = 0; i < 16; ++i) rows[i] = load_ints(keys[i] + d);
    turn_over(rows);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (d + i) * stride, rows[i]);
  }
}

}  // namespace glidecape
