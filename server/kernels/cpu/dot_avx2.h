// dot.h for weights of 4 bits with AVX2: vpmaddubsw multiplies unsigned with signed bytes (quads.h) and
// adds neighbours in 16 bits, where all eight quads of a group find room: 8 * 2 * 15 * 127 is below 2^15.
#pragma once

#include "quads_avx2.h"

namespace glidecape {

// As many rows side by side as their sums leave registers beside the weights.
constexpr int kQuadRows = 4;

template <int Rows, class Use>
inline __attribute__((always_inline)) void add_quads_together(const UnpackedQuads& weights, int first,
                                                              const int8_t* values, int64_t stride,
                                                              const Use& use) {
  __m256i low[Rows], high[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    const __m256i some = weights.half(quad, 0), others = weights.half(quad, 1);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m256i four = four_of(values + r * stride + 4 * quad);
      low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(some, four));
      settle(low[r]);
      high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(others, four));
      settle(high[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const int8_t* group = values + r * stride;
    const __m256i ones = _mm256_set1_epi16(1), many = _mm256_set1_epi16(128);
    const __m256i one = four_of(group + kHighAt), other = four_of(group + kHighAt + 4);
    const auto whole = [&](__m256i sums, int half) {
      const __m256i wide =
          _mm256_add_epi16(_mm256_maddubs_epi16(weights.half(group[kQuadsAt], half), one),
                           _mm256_maddubs_epi16(weights.half(group[kQuadsAt + 1], half), other));
      return _mm256_add_epi32(_mm256_madd_epi16(sums, ones), _mm256_madd_epi16(wide, many));
    };
    use(first + r, IntLanes{whole(low[r], 0), whole(high[r], 1)});
  }
}

template <int Rows, class Use>
inline void add_quads(const uint8_t* from, const int8_t* values, int64_t stride, const Use& use) {
  constexpr int kRest = Rows % kQuadRows;
  const UnpackedQuads weights(from);
#pragma GCC unroll 4
  for (int r = 0; r < Rows - kRest; r += kQuadRows)
    add_quads_together<kQuadRows>(weights, r, values + r * stride, stride, use);
  if constexpr (kRest > 0)
    add_quads_together<kRest>(weights, Rows - kRest, values + (Rows - kRest) * stride, stride, use);
}

}  // namespace glidecape
