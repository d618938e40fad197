// quads.h in registers of 256 bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "quads.h"

namespace glidecape {

// low, high: a group's integers, the first and the last 16.
inline void put_bytes(int8_t* to, __m256i low, __m256i high, const WideQuads& quads) {
  // Of each integer: the number of its quad, and -1 or 0 by whether it is wide.
  const __m256i of_low = _mm256_setr_epi16(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m256i of_high = _mm256_add_epi16(of_low, _mm256_set1_epi16(4));
  const auto named = [&](int i, int quad) {
    const int none = (quads.count - 1 - i) >> 31;  // all bits, or none of them
    return _mm256_set1_epi16(static_cast<int16_t>(quad | none));
  };
  const __m256i first = named(0, quads.first), second = named(1, quads.second);
  const auto high_bytes = [&](__m256i x, __m256i of) {
    const __m256i wide = _mm256_or_si256(_mm256_cmpeq_epi16(of, first), _mm256_cmpeq_epi16(of, second));
    return _mm256_and_si256(_mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(64)), 7), wide);
  };
  const auto bytes = [](__m256i a, __m256i b) { return in_order(_mm256_packs_epi16(a, b)); };
  const auto rest = [](__m256i x, __m256i up) { return _mm256_sub_epi16(x, _mm256_slli_epi16(up, 7)); };
  const __m256i up_low = high_bytes(low, of_low), up_high = high_bytes(high, of_high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes(rest(low, up_low), rest(high, up_high)));
  alignas(32) int8_t up[kGroup];
  _mm256_store_si256(reinterpret_cast<__m256i*>(up), bytes(up_low, up_high));
  std::memcpy(to + kHighAt, up + 4 * quads.first, 4);
  std::memcpy(to + kHighAt + 4, up + 4 * quads.second, 4);
  to[kQuadsAt] = static_cast<int8_t>(quads.first);
  to[kQuadsAt + 1] = static_cast<int8_t>(quads.second);
  to[kCountAt] = static_cast<int8_t>(quads.count);
}

inline IntLanes add(IntLanes a, IntLanes b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}

// Four neighbours for every lane.
inline __m256i four_of(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, sizeof four);
  return _mm256_set1_epi32(four);
}

// A group's weights with a byte each, quad by quad (encoding.h).
struct UnpackedQuads {
  alignas(32) uint8_t bytes[8][64];

  // Of outputs 0 … 7, or 8 … 15.
  __m256i half(int quad, int i) const {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes[quad] + 32 * i));
  }
};

}  // namespace glidecape
