// A group's wide quads (dot.h), found without a branch where there are vectors of eight: which quads they
// are is as good as random, and each guess that a CPU gets wrong costs more than all of the search.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "lanes.h"

namespace glidecape {

#ifdef __AVX2__

// largest: of each quad, as an absolute value; names: which quads these are.
inline WideQuads wide_quads_of(__m256 largest, __m256i names) {
  // As integers floats that are not negative have the same order; a quad's name is in the lowest bits.
  const __m256i name_bits = _mm256_set1_epi32(7);
  const __m256i keys = _mm256_or_si256(_mm256_andnot_si256(name_bits, _mm256_castps_si256(largest)), names);
  const __m128i some = _mm256_castsi256_si128(keys), others = _mm256_extracti128_si256(keys, 1);
  __m128i larger = _mm_max_epi32(some, others), smaller = _mm_min_epi32(some, others);
  const auto take = [&] {
    __m128i most = _mm_max_epi32(larger, _mm_shuffle_epi32(larger, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    const __m128i taken = _mm_cmpeq_epi32(larger, most);
    larger = _mm_blendv_epi8(larger, smaller, taken);
    smaller = _mm_andnot_si128(taken, smaller);
    return most;
  };
  const __m128i first = take(), second = take(), third = take();
  const auto value = [](__m128i key) {
    return _mm_castsi128_ps(_mm_andnot_si128(_mm_set1_epi32(7), key));
  };
  const __m128 of_first = value(first), of_second = value(second), of_third = value(third);
  const __m128 coarsest = _mm_mul_ps(of_third, _mm_set1_ps(kCoarsest));
  const __m128 first_is = _mm_cmplt_ps(of_first, coarsest);  // narrow: all bits, or none of them
  const __m128 second_is = _mm_cmplt_ps(of_second, coarsest);
  const __m128 narrow = _mm_max_ps(_mm_and_ps(of_first, first_is), _mm_and_ps(of_second, second_is));
  const __m128i num_narrow = _mm_add_epi32(_mm_castps_si128(first_is), _mm_castps_si128(second_is));
  return {_mm_cvtsi128_si32(first) & 7, _mm_cvtsi128_si32(second) & 7, 2 + _mm_cvtsi128_si32(num_narrow),
          _mm_cvtss_f32(of_first), _mm_cvtss_f32(_mm_max_ps(narrow, of_third))};
}

#endif

#if defined(GLIDECAPE_AVX512)

inline WideQuads find_wide_quads(Lanes a, Lanes b) {
  const auto of_quads = [](Lanes x) {
    x = _mm512_abs_ps(x);
    x = _mm512_max_ps(x, _mm512_permute_ps(x, 0xb1));
    return _mm512_max_ps(x, _mm512_permute_ps(x, 0x4e));
  };
  const __m512i one_each = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512 eight = _mm512_permutex2var_ps(of_quads(a), one_each, of_quads(b));
  return wide_quads_of(_mm512_castps512_ps256(eight), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

#elif defined(__AVX2__)

inline WideQuads find_wide_quads(Lanes a, Lanes b) {
  const auto of_quads = [](__m256 x) {
    x = _mm256_max_ps(x, _mm256_permute_ps(x, 0xb1));
    return _mm256_max_ps(x, _mm256_permute_ps(x, 0x4e));
  };
  a = abs(a);
  b = abs(b);
  const __m256 of_a = _mm256_blend_ps(of_quads(a.low), of_quads(a.high), 0xaa);
  const __m256 of_b = _mm256_blend_ps(of_quads(b.low), of_quads(b.high), 0xaa);
  return wide_quads_of(_mm256_blend_ps(of_a, of_b, 0xcc), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}

#else

inline WideQuads find_wide_quads(Lanes a, Lanes b) {
  alignas(64) float values[kGroup];
  store(values, abs(a));
  store(values + 16, abs(b));
  int32_t keys[8];
  for (int quad = 0; quad < 8; ++quad) {
    std::memcpy(&keys[quad], std::max_element(values + 4 * quad, values + 4 * quad + 4), 4);
    keys[quad] = (keys[quad] & ~7) | quad;
  }
  const auto take = [&keys] {
    int32_t* most = std::max_element(keys, keys + 8);
    return std::exchange(*most, 0);
  };
  const int32_t first = take(), second = take(), third = take();
  const auto value = [](int32_t key) {
    const int32_t bits = key & ~7;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  };
  const float largest[] = {value(first), value(second), value(third)};
  const float coarsest = kCoarsest * largest[2];
  const int count = 2 - (largest[0] < coarsest) - (largest[1] < coarsest);
  return {first & 7, second & 7, count, largest[0], largest[count]};
}

#endif

}  // namespace glidecape
