// dot.h with products of 16-bit integers, two neighbours at a time (vpmaddwd, pmaddwd); with AVX2, for
// weights of 4 to 6 bits, of bytes, four neighbours at a time (dot_avx2.h).
//
// An activation is an int16. A weight pair is two neighbouring inputs of one output: of the 32 bits that
// have its quad (encoding.h), two bytes or two half bytes that are 16 bits apart. Weights of 4 bits are
// multiplied as they are packed, all others are unpacked to bytes first.
//
// The rows are taken a few at a time: so many that their sums stay in registers while the weights,
// unpacked once for them, go by.
#pragma once

#include <cstdint>
#include <cstring>

#include "wide_quads.h"

#ifdef __AVX2__
#include "dot_avx2.h"
#endif

namespace glidecape {

#if defined(__AVX2__)

constexpr bool kHasPairs = true, kHasQuads = true;
constexpr int kDotRows = 4;  // 8 registers of sums

// 16 pairs of 16-bit integers.
using Pairs = IntLanes;

template <int Shift, int Bits>
inline Pairs unpack(Pairs block) {
  const __m256i mask = _mm256_set1_epi16((1 << Bits) - 1);
  const auto part = [&](__m256i x) {
    if constexpr (Shift > 0) x = _mm256_srli_epi16(x, Shift);
    if constexpr (Shift + Bits < 16) x = _mm256_and_si256(x, mask);
    return x;
  };
  return {part(block.low), part(block.high)};
}

// To each sum the product of its pair with the given one.
inline IntLanes add_products(IntLanes sums, Pairs weights, int32_t pair) {
  const __m256i both = _mm256_set1_epi32(pair);
  sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(weights.low, both));
  settle(sums.low);
  sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(weights.high, both));
  settle(sums.high);
  return sums;
}

#else

constexpr bool kHasPairs = true, kHasQuads = false;
#ifdef __aarch64__
constexpr int kDotRows = 4;
#else
constexpr int kDotRows = 2;
#endif

using Pairs = IntLanes;

template <int Shift, int Bits>
inline Pairs unpack(Pairs block) {
  typedef uint16_t Short8 __attribute__((vector_size(16)));
  constexpr uint16_t kMask = (1 << Bits) - 1;
  const Short8 mask{kMask, kMask, kMask, kMask, kMask, kMask, kMask, kMask};
  return int_lanes_of([&](int i) {
    return bits_as<Int4>((bits_as<Short8>(block.part[i]) >> Shift) & mask);
  });
}

inline IntLanes add_products(IntLanes sums, Pairs weights, int32_t pair) {
#ifdef __SSE2__
  const auto both = bits_as<__m128i>(all_4(pair));
  const auto product = [&](Int4 pairs) {
    return bits_as<Int4>(_mm_madd_epi16(bits_as<__m128i>(pairs), both));
  };
#else
  const Int4 first = all_4(static_cast<int16_t>(pair)), second = all_4(pair >> 16);
  const auto product = [&](Int4 pairs) {  // of weights, which are not negative
    return (pairs & all_4(0xffff)) * first + (pairs >> 16) * second;
  };
#endif
  return int_lanes_of([&](int i) {
    Int4 sum = sums.part[i] + product(weights.part[i]);
    settle(sum);
    return sum;
  });
}

#endif

inline void put_values(GroupAt to, IntLanes a, IntLanes b, const WideQuads& quads) {
#ifdef __AVX2__
  const __m256i low = to_shorts(a), high = to_shorts(b);
  auto* const pairs = reinterpret_cast<__m256i*>(to.pairs);
  _mm256_storeu_si256(pairs, low);
  _mm256_storeu_si256(pairs + 1, high);
  put_bytes(to.quads, low, high, quads);
#else
  static_cast<void>(quads);
  alignas(32) int16_t shorts[kGroup];
  store_shorts(shorts, a);
  store_shorts(shorts + 16, b);
  std::memcpy(to.pairs, shorts, kPairsBytes);
#endif
}

constexpr bool in_pairs(Encoding encoding) {
#ifdef __AVX2__
  return !sums_quads(encoding);
#else
  static_cast<void>(encoding);
  return true;
#endif
}

// The pair of activations that begins at p.
inline int32_t pair_at(const int8_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return pair;
}

// The products of one pair of a block; its bits begin at Shift.
template <int Shift, int Bits, int Rows>
inline void add_pair(Pairs block, const int8_t* values, int64_t stride, IntLanes sums[Rows]) {
  const Pairs weights = unpack<Shift, Bits>(block);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
    sums[r] = add_products(sums[r], weights, pair_at(values + r * stride));
}

// The products of a block of 64 bytes: of two quads with 4 bits, of one with 8.
template <int Bits, int Rows>
inline void add_block(Pairs block, const int8_t* values, int64_t stride, IntLanes sums[Rows]) {
  add_pair<0, Bits, Rows>(block, values, stride, sums);
  add_pair<8, Bits, Rows>(block, values + 4, stride, sums);
  if constexpr (Bits == 4) {
    add_pair<4, Bits, Rows>(block, values + 8, stride, sums);
    add_pair<12, Bits, Rows>(block, values + 12, stride, sums);
  }
}

template <int Rows, int Bits, int Sums, class Use>
inline void add_blocks(const uint8_t* weights, const int8_t* values, int64_t stride, const Use& use,
                       int first = 0) {
  constexpr int kRows = Rows < kDotRows ? Rows : kDotRows, kBlocks = Bits / Sums;  // of a sum
  IntLanes sums[Sums][kRows] = {};
  for (int part = 0; part < Sums; ++part) {
#pragma GCC unroll 1
    for (int i = part * kBlocks; i < (part + 1) * kBlocks; ++i)
      add_block<Bits, kRows>(load_ints(weights + 64 * i), values + 64 / Bits * i, stride, sums[part]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const IntLanes of_row[] = {sums[0][r], sums[Sums - 1][r]};
    use(first + r, of_row);
  }
  if constexpr (Rows > kRows)
    add_blocks<Rows - kRows, Bits, Sums>(weights, values + kRows * stride, stride, use, first + kRows);
}

template <int Rows, Encoding E, int Sums, class Use>
inline void add_dots(const uint8_t* packed, const int8_t* values, int64_t stride, const Use& use) {
#ifdef __AVX2__
  if constexpr (sums_quads(E)) {
    add_quads<Rows, E, Sums>(packed, values, stride, use);
  } else
#endif
  if constexpr (E == Encoding::kFour || E == Encoding::kEight) {
    add_blocks<Rows, E == Encoding::kFour ? 4 : 8, Sums>(packed, values, stride, use);
  } else {
    alignas(64) uint8_t bytes[512];
    unpack_group<E>(packed, bytes);
    add_blocks<Rows, 8, Sums>(bytes, values, stride, use);
  }
}

}  // namespace glidecape
