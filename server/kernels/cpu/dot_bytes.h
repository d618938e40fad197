// dot.h with vpdpbusd, which adds four products of unsigned with signed bytes to each lane.
//
// An activation is two bytes, x = 16 * high + low, high from -127 to 127, low from -8 to 7:
//
//   a group: high [32] | low [32], one cache line
//
// Weights lie four inputs to a lane:
//
//            output 0              output 1            output 15
//   vector 0 [q0,0 q0,1 q0,2 q0,3 | q1,0 … q1,3 | … | q15,0 … q15,3]        inputs 0 … 3
//   vector 1 …                                                             inputs 4 … 7
//   …                                                                      (8 vectors)
//
// With 4 bits, vectors 2i and 2i + 1 share their bytes: low halves and high halves.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace glidecape {

inline void put_12_bits(IntLanes x, int8_t* group, int first) {
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(8)), 4);
  const __m512i low = _mm512_sub_epi32(x, _mm512_slli_epi32(high, 4));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(group + first), _mm512_cvtepi32_epi8(high));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(group + kGroup + first), _mm512_cvtepi32_epi8(low));
}

inline void place(uint8_t* to, int bits, int lane, int i, uint8_t value) {
  const int vector = i / 4, byte = lane * 4 + i % 4;
  if (bits == 8) to[vector * 64 + byte] = value;
  else to[vector / 2 * 64 + byte] |= static_cast<uint8_t>(value << (vector % 2 * 4));
}

// The 8 vectors of a group's weights.
template <int Bits>
inline void unpack(const uint8_t* from, __m512i weights[8]) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int i = 0; i < Bits; ++i) {
    const __m512i bytes = _mm512_loadu_si512(from + 64 * i);
    if constexpr (Bits == 8) {
      weights[i] = bytes;
    } else {
      weights[2 * i] = _mm512_and_si512(bytes, low);
      weights[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    }
  }
}

// Four neighbours for every lane; becomes a memory operand of vpdpbusd.
inline __m512i four_of(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, sizeof four);
  return _mm512_set1_epi32(four);
}

// Rows whose sums are formed side by side: a vpdpbusd waits five cycles for the one before it in its
// sum, and two could begin in each. With 16 totals and 8 vectors of weights they fill the registers.
constexpr int kTogether = 4;

template <int Rows, class Use>
inline __attribute__((always_inline)) void add_dots_together(const __m512i weights[8], int first,
                                                             const int8_t* values, int64_t stride,
                                                             const Use& use) {
  __m512i high[Rows], low[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) high[r] = low[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const int8_t* bytes = values + (first + r) * stride + 4 * i;
      high[r] = _mm512_dpbusd_epi32(high[r], weights[i], four_of(bytes));
      low[r] = _mm512_dpbusd_epi32(low[r], weights[i], four_of(bytes + kGroup));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
    use(first + r, _mm512_add_epi32(_mm512_slli_epi32(high[r], 4), low[r]));
}

template <int Rows, int Bits, class Use>
inline void add_dots(const uint8_t* from, const int8_t* values, int64_t stride, const Use& use) {
  constexpr int kRest = Rows % kTogether;
  __m512i weights[8];
  unpack<Bits>(from, weights);
#pragma GCC unroll 4
  for (int r = 0; r < Rows - kRest; r += kTogether)
    add_dots_together<kTogether>(weights, r, values, stride, use);
  if constexpr (kRest > 0) add_dots_together<kRest>(weights, Rows - kRest, values, stride, use);
}

}  // namespace glidecape
