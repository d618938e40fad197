// dot.h with vpdpbusd, which adds four products of unsigned with signed bytes to each lane (quads.h).
#pragma once

#include "quads.h"
#include "wide_quads.h"

namespace glidecape {

constexpr bool kHasPairs = false, kHasQuads = true;

inline void put_values(GroupAt to, IntLanes a, IntLanes b, const WideQuads& quads) {
  int8_t* const group = to.quads;
  const auto inputs_of = [&](int i, int quad) { return (i < quads.count ? 15u : 0u) << 4 * quad; };
  const uint32_t wide = inputs_of(0, quads.first) | inputs_of(1, quads.second);
  alignas(16) int8_t high[kGroup];
  const auto put_half = [&](IntLanes x, __mmask16 is_wide, int first) {
    const __m512i up = _mm512_maskz_srai_epi32(is_wide, _mm512_add_epi32(x, _mm512_set1_epi32(64)), 7);
    const __m512i low = _mm512_sub_epi32(x, _mm512_slli_epi32(up, 7));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(group + first), _mm512_cvtepi32_epi8(low));
    _mm_store_si128(reinterpret_cast<__m128i*>(high + first), _mm512_cvtepi32_epi8(up));
  };
  put_half(a, static_cast<__mmask16>(wide), 0);
  put_half(b, static_cast<__mmask16>(wide >> 16), 16);
  std::memcpy(group + kHighAt, high + 4 * quads.first, 4);
  std::memcpy(group + kHighAt + 4, high + 4 * quads.second, 4);
  group[kQuadsAt] = static_cast<int8_t>(quads.first);
  group[kQuadsAt + 1] = static_cast<int8_t>(quads.second);
  group[kCountAt] = static_cast<int8_t>(quads.count);
}

constexpr bool in_pairs(Encoding) { return false; }

// The 8 quads of a group's weights, one by one in memory too: a row picks its wide ones there.
template <Encoding E>
inline __attribute__((always_inline)) const uint8_t* unpack(const uint8_t* packed,
                                                            __m512i weights[8], uint8_t* room) {
  for_quads(std::make_integer_sequence<int, 8>(), [&](auto quad) __attribute__((always_inline)) {
    weights[quad] = (__m512i)unpacked<E, quad>(packed, 0);
    if constexpr (E != Encoding::kEight) _mm512_store_si512(room + 64 * quad, weights[quad]);
  });
  return E == Encoding::kEight ? packed : room;
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
inline __attribute__((always_inline)) void add_dots_together(const __m512i weights[8],
                                                             const uint8_t* in_memory, int first,
                                                             const int8_t* values, int64_t stride,
                                                             const Use& use) {
  // Few rows have two sums each, so that there are always some to go on with.
  constexpr int kSums = Rows <= 2 ? 2 : 1;
  __m512i low[Rows][kSums], high[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const int8_t* group = values + (first + r) * stride;
    const auto wide = [&](int i) { return _mm512_loadu_si512(in_memory + 64 * group[kQuadsAt + i]); };
    for (int i = 0; i < kSums; ++i) low[r][i] = _mm512_setzero_si512();
    high[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), wide(0), four_of(group + kHighAt));
    high[r] = _mm512_dpbusd_epi32(high[r], wide(1), four_of(group + kHighAt + 4));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      __m512i& sum = low[r][i % kSums];
      sum = _mm512_dpbusd_epi32(sum, weights[i], four_of(values + (first + r) * stride + 4 * i));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const __m512i sum = kSums == 2 ? _mm512_add_epi32(low[r][0], low[r][kSums - 1]) : low[r][0];
    const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high[r], 7), sum);
    use(first + r, &whole);
  }
}

// The same with a sum over each half of the group. A wide quad belongs to one of them, whose sum it
// begins; with eight sums at a time there are enough to go on with.
template <int Rows, class Use>
inline __attribute__((always_inline)) void add_halves_together(const __m512i weights[8],
                                                               const uint8_t* in_memory, int first,
                                                               const int8_t* values, int64_t stride,
                                                               const Use& use) {
  __m512i low[Rows], high[Rows];  // of the lower and the higher quads
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const int8_t* group = values + (first + r) * stride;
    low[r] = high[r] = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int quad = group[kQuadsAt + i];
      const auto is_low = static_cast<__mmask16>(quad / 4 - 1);  // all of its bits, or none
      const __m512i wide = _mm512_loadu_si512(in_memory + 64 * quad);
      const __m512i four = four_of(group + kHighAt + 4 * i);
      low[r] = _mm512_mask_dpbusd_epi32(low[r], is_low, wide, four);
      high[r] = _mm512_mask_dpbusd_epi32(high[r], _knot_mask16(is_low), wide, four);
    }
    low[r] = _mm512_slli_epi32(low[r], 7);
    high[r] = _mm512_slli_epi32(high[r], 7);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const int8_t* four = values + (first + r) * stride + 4 * i;
      low[r] = _mm512_dpbusd_epi32(low[r], weights[i], four_of(four));
      high[r] = _mm512_dpbusd_epi32(high[r], weights[4 + i], four_of(four + 16));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const __m512i both[] = {low[r], high[r]};
    use(first + r, both);
  }
}

template <int Rows, Encoding E, int Sums, class Use>
inline void add_dots(const uint8_t* packed, const int8_t* values, int64_t stride, const Use& use) {
  constexpr int kRest = Rows % kTogether;
  alignas(64) uint8_t room[E == Encoding::kEight ? 64 : 512];
  __m512i weights[8];
  const uint8_t* in_memory = unpack<E>(packed, weights, room);
  const auto add_some = [&](auto count, int first) __attribute__((always_inline)) {
    if constexpr (Sums == 1)
      add_dots_together<count>(weights, in_memory, first, values, stride, use);
    else
      add_halves_together<count>(weights, in_memory, first, values, stride, use);
  };
#pragma GCC unroll 4
  for (int r = 0; r < Rows - kRest; r += kTogether)
    add_some(std::integral_constant<int, kTogether>(), r);
  if constexpr (kRest > 0) add_some(std::integral_constant<int, kRest>(), Rows - kRest);
}

}  // namespace glidecape
