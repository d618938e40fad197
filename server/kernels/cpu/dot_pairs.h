// dot.h with products of 16-bit integers, two neighbours at a time (vpmaddwd, pmaddwd); with AVX2, for
// weights of 4 bits, of bytes, four neighbours at a time (dot_avx2.h).
//
// An activation is an int16.
//
// A weight pair is two neighbouring inputs of one output; 32 bits hold 8 / bits pairs of the output,
// one in the lowest bits of each half, the next one above it:
//
//            output 0       output 1       output 15
//   block 0 [q0,0  q0,1  | q1,0  q1,1  | … | q15,0  q15,1 ]   lowest bits: pair 0
//            q0,2  q0,3    …                                  above them:  pair 1
//            (4 bits: q0,4 q0,5 and q0,6 q0,7 above these)
//   block 1 …
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

constexpr int kBytesAt = 2 * kGroup, kGroupBytes = kBytesAt + kQuadsBytes;
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

constexpr int kGroupBytes = 2 * kGroup;
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

// The integers of a group; beside them, with AVX2, the same in bytes.
inline void put_values(int8_t* group, IntLanes a, IntLanes b, const WideQuads& quads) {
  alignas(32) int16_t shorts[kGroup];
  store_shorts(shorts, a);
  store_shorts(shorts + 16, b);
  std::memcpy(group, shorts, sizeof shorts);
#ifdef __AVX2__
  put_bytes(group + kBytesAt, shorts, quads);
#else
  static_cast<void>(quads);
#endif
}

inline void place(uint8_t* to, int bits, int lane, int i, uint8_t value) {
#ifdef __AVX2__
  if (bits == 4) return place_in_quads(to, bits, lane, i, value);
#endif
  const int pairs = 16 / bits, pair = i / 2;  // of a block
  uint16_t all;
  uint8_t* at = to + pair / pairs * 64 + lane * 4 + i % 2 * 2;
  std::memcpy(&all, at, sizeof all);
  all = static_cast<uint16_t>(all | value << (pair % pairs * bits));
  std::memcpy(at, &all, sizeof all);
}

// The pair of activations that begins at p.
inline int32_t pair_at(const int8_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return pair;
}

// The products of one pair in each block; the pair's bits begin at Shift.
template <int Shift, int Bits, int Rows>
inline void add_pairs(Pairs block, const int8_t* values, int64_t stride, IntLanes sums[Rows]) {
  const Pairs weights = unpack<Shift, Bits>(block);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
    sums[r] = add_products(sums[r], weights, pair_at(values + r * stride));
  if constexpr (Shift + Bits < 16)
    add_pairs<Shift + Bits, Bits, Rows>(block, values + 4, stride, sums);
}

template <int Rows, int Bits, class Use>
inline void add_dots(const uint8_t* weights, const int8_t* values, int64_t stride, const Use& use,
                     int first = 0) {
#ifdef __AVX2__
  if constexpr (Bits == 4) return add_quads<Rows>(weights, values + kBytesAt, stride, use);
#endif
  constexpr int kRows = Rows < kDotRows ? Rows : kDotRows;
  IntLanes sums[kRows] = {};
#pragma GCC unroll 1
  for (int i = 0; i < Bits; ++i)
    add_pairs<0, Bits, kRows>(load_ints(weights + 64 * i), values + 64 / Bits * i, stride, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) use(first + r, sums[r]);
  if constexpr (Rows > kRows)
    add_dots<Rows - kRows, Bits>(weights, values + kRows * stride, stride, use, first + kRows);
}

}  // namespace glidecape
