// lanes.h for AVX2, FMA and F16C: two registers of 8.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace glidecape {

constexpr int kTileLanes = 6;  // 12 of 16 registers

struct Lanes {
  __m256 low, high;
};
struct IntLanes {
  __m256i low, high;
};

inline Lanes operator+(Lanes a, Lanes b) { return {a.low + b.low, a.high + b.high}; }
inline Lanes operator-(Lanes a, Lanes b) { return {a.low - b.low, a.high - b.high}; }
inline Lanes operator*(Lanes a, Lanes b) { return {a.low * b.low, a.high * b.high}; }
inline Lanes operator/(Lanes a, Lanes b) { return {a.low / b.low, a.high / b.high}; }

inline Lanes all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Lanes fnma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
inline Lanes min(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Lanes max(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Lanes abs(Lanes x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Lanes round(Lanes x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
}
inline float sum(Lanes x) {
  const __m256 eight = x.low + x.high;
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline float largest(Lanes x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return std::max(two[0], two[1]);
}

inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes load_first(const float* p, int count, float rest) {
  if (count >= 16) return load(p);
  float some[16];
  std::fill(std::copy_n(p, count, some), some + 16, rest);
  return load(some);
}
inline __m128i load_8_shorts(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline Lanes load(const bf16* p) {
  const auto widen = [](__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  };
  return {widen(load_8_shorts(p)), widen(load_8_shorts(p + 8))};
}
inline Lanes load_half(const uint8_t* p) {
  return {_mm256_cvtph_ps(load_8_shorts(p)), _mm256_cvtph_ps(load_8_shorts(p + 16))};
}
inline Lanes load_bytes(const uint8_t* p) {
  const auto eight = [](const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  };
  return {eight(p), eight(p + 8)};
}
inline void store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}

// The lower 16 bits of each lane, which hold numbers from 0 to 65535 (packus) or of either sign.
inline __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xd8); }

// To the nearest, ties to even.
inline void store(bf16* p, Lanes x) {
  const auto rounded = [](__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  };
  const __m256i packed = _mm256_packus_epi32(rounded(x.low), rounded(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), in_order(packed));
}

inline unsigned greater(Lanes a, Lanes b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ));
  return static_cast<unsigned>(low | high << 8);
}
inline bool unordered(Lanes a, Lanes b) {
  const __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_UNORD_Q);
  const __m256 high = _mm256_cmp_ps(a.high, b.high, _CMP_UNORD_Q);
  return _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0;
}

inline IntLanes to_ints(Lanes x) {
  return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
}
inline IntLanes load_ints(const void* p) {
  const auto* from = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
inline Lanes to_floats(IntLanes x) {
  return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
inline int sum(IntLanes x) {
  const __m256i eight = _mm256_add_epi32(x.low, x.high);
  __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 1)));
}
inline __m256i to_shorts(IntLanes x) { return in_order(_mm256_packs_epi32(x.low, x.high)); }

// In two steps, because half of 2^n for n = -150 or 2^150 has no float. One rounding all the same:
// the first product is exact.
inline Lanes times_power_of_two(Lanes x, Lanes n) {
  const auto times = [](__m256 v, __m256 power) {
    const __m256i whole = _mm256_cvtps_epi32(power), half = _mm256_srai_epi32(whole, 1);
    const auto to_power = [](__m256i exponent) {
      const __m256i biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
      return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    };
    return v * to_power(half) * to_power(_mm256_sub_epi32(whole, half));
  };
  return {times(x.low, n.low), times(x.high, n.high)};
}

inline __m256 low_bf16(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 high_bf16(__m256i pairs) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, high));
}
inline Lanes low_bf16(IntLanes pairs) { return {low_bf16(pairs.low), low_bf16(pairs.high)}; }
inline Lanes high_bf16(IntLanes pairs) { return {high_bf16(pairs.low), high_bf16(pairs.high)}; }

// r[i] lane j -> r[j] lane i
inline void turn_over(__m256i r[8]) {
  __m256i t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // r[i + j] block b: column 4b + j of rows i … i + 3
    r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2x128_si256(r[j], r[4 + j], 0x20);
    t[4 + j] = _mm256_permute2x128_si256(r[j], r[4 + j], 0x31);
  }
  std::copy(t, t + 8, r);
}

inline void turn_keys(const bf16* const* keys, float* to, int64_t stride) {
  for (int first = 0; first < 16; first += 8) {
    for (int d = 0; d < 32; d += 16) {
      __m256i pairs[8];  // of neighbours in a row: a row per vector, then a pair per vector
      for (int i = 0; i < 8; ++i)
        pairs[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys[first + i] + d));
      turn_over(pairs);
      for (int i = 0; i < 8; ++i) {
        float* at = to + (d + 2 * i) * stride + first;
        _mm256_storeu_ps(at, low_bf16(pairs[i]));
        _mm256_storeu_ps(at + stride, high_bf16(pairs[i]));
      }
    }
  }
}

inline void turn_keys(const float* const* keys, float* to, int64_t stride) {
  for (int first = 0; first < 16; first += 8) {
    for (int d = 0; d < 32; d += 8) {
      __m256i rows[8];
      for (int i = 0; i < 8; ++i)
        rows[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys[first + i] + d));
      turn_over(rows);
      for (int i = 0; i < 8; ++i)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (d + i) * stride + first), rows[i]);
    }
  }
}

}  // namespace glidecape
