// dot.h for weights of 4 bits with AVX2: vpmaddubsw multiplies unsigned with signed bytes and adds
// neighbours in 16 bits, where all eight quads of a group find room: 8 * 2 * 15 * 127 is below 2^15.
//
//   a group: low [32] | high of the first wide quad [4], of the second [4] | their numbers [2]
//
// Weights lie four inputs to a lane, two quads to a block of 64 bytes, one in the low halves of its
// bytes and one in the high ones:
//
//            output 0              output 1            output 15
//   block 0 [q0,0 q0,1 q0,2 q0,3 | q1,0 … q1,3 | … | q15,0 … q15,3]   low halves: quad 0
//            q0,4 …                                                  high halves: quad 1
#pragma once

namespace glidecape {

constexpr int kHighAt = kGroup, kQuadsAt = kGroup + 8;

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

inline void place_in_quads(uint8_t* to, int lane, int i, uint8_t value) {
  const int quad = i / 4;
  to[quad / 2 * 64 + lane * 4 + i % 4] |= static_cast<uint8_t>(value << (quad % 2 * 4));
}

// Four neighbours for every lane.
inline __m256i four_of(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, sizeof four);
  return _mm256_set1_epi32(four);
}

// A group's weights with a byte each, quad by quad: [8][16 outputs][4].
struct UnpackedQuads {
  alignas(32) uint8_t bytes[8][64];

  explicit UnpackedQuads(const uint8_t* blocks) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < 8; ++i) {  // half a block of 64 bytes
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks + 32 * i));
      uint8_t* to = bytes[i / 2 * 2] + i % 2 * 32;
      _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_and_si256(both, low));
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + 64),
                         _mm256_and_si256(_mm256_srli_epi16(both, 4), low));
    }
  }

  // Of outputs 0 … 7, or 8 … 15.
  __m256i half(int quad, int i) const {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes[quad] + 32 * i));
  }
};

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
