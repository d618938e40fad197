// quads.h in registers of 256 bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "quads.h"

namespace glidecape {

// values: a group's integers.
inline void put_bytes(int8_t* to, const int16_t* values, const WideQuads& quads) {
  const auto* from = reinterpret_cast<const __m256i*>(values);
  const __m256i bytes = _mm256_packs_epi16(_mm256_load_si256(from), _mm256_load_si256(from + 1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), in_order(bytes));
  const int wide[2] = {quads.first, quads.second};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int value = values[4 * wide[i] + j], high = (value + 64) >> 7;
      to[4 * wide[i] + j] = static_cast<int8_t>(value - 128 * high);
      to[kHighAt + 4 * i + j] = static_cast<int8_t>(high);
    }
    to[kQuadsAt + i] = static_cast<int8_t>(wide[i]);
  }
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
