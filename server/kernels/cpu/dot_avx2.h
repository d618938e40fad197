// dot.h for weights of 4 to 6 bits with AVX2: vpmaddubsw multiplies unsigned with signed bytes
// (quads.h) and adds neighbours in 16 bits, where some quads of a group find room before they have to be widened:
//
//   4 bits   8 * 2 * 15 * 127      all of them
//   5 bits   4 * 2 * 31 * 127      half of them
//   6 bits   2 * 2 * 63 * 127      two of them; below 2^15 each
#pragma once

#include <algorithm>

#include "quads_avx2.h"

namespace glidecape {

// Quads that are summed in 16 bits.
constexpr int quads_in_16_bits(Encoding encoding) {
  return encoding == Encoding::kFour ? 8 : encoding == Encoding::kFive ? 4 : 2;
}

constexpr bool sums_quads(Encoding encoding) {
  return encoding != Encoding::kEight && encoding != Encoding::kTable;
}

// Adds to a row's sums over Count quads from First on what the high bytes of its wide ones make.
template <int First, int Count>
inline __attribute__((always_inline)) IntLanes add_wide(IntLanes sums, const UnpackedQuads& weights,
                                                        const int8_t* group) {
  const int count = group[kCountAt];
  if (count == 0) return sums;
  const auto products = [&](int i) -> IntLanes {
    const int quad = group[kQuadsAt + i];
    const __m256i four = four_of(group + kHighAt + 4 * i);
    return {_mm256_maddubs_epi16(weights.half(quad, 0), four),
            _mm256_maddubs_epi16(weights.half(quad, 1), four)};
  };
  const auto weighted = [](IntLanes x, int by) -> IntLanes {
    const __m256i all = _mm256_set1_epi16(static_cast<int16_t>(by));
    return {_mm256_madd_epi16(x.low, all), _mm256_madd_epi16(x.high, all)};
  };
  IntLanes first = products(0);
  if constexpr (Count == 8) {
    if (count == 2) {
      const IntLanes second = products(1);
      first = {_mm256_add_epi16(first.low, second.low), _mm256_add_epi16(first.high, second.high)};
    }
    return add(sums, weighted(first, 128));
  }
  const auto weight = [&](int i) { return group[kQuadsAt + i] / Count == First / Count ? 128 : 0; };
  sums = add(sums, weighted(first, weight(0)));
  return count == 2 ? add(sums, weighted(products(1), weight(1))) : sums;
}

// The sums over Count quads from First on, of Rows rows side by side.
template <int Rows, Encoding E, int First, int Count>
inline __attribute__((always_inline)) void sum_quads(const UnpackedQuads& weights,
                                                     const int8_t* values, int64_t stride,
                                                     IntLanes (*sums)[8 / Count]) {
  constexpr int kAtOnce = std::min(Count, quads_in_16_bits(E)), kTo = First / Count;
#pragma GCC unroll 4
  for (int begin = First; begin < First + Count; begin += kAtOnce) {
    __m256i low[Rows], high[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int quad = begin; quad < begin + kAtOnce; ++quad) {
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
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const IntLanes wider{_mm256_madd_epi16(low[r], ones), _mm256_madd_epi16(high[r], ones)};
      sums[r][kTo] = begin == First ? wider : add(sums[r][kTo], wider);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
    sums[r][kTo] = add_wide<First, Count>(sums[r][kTo], weights, values + r * stride);
}

template <int Rows, Encoding E, int Sums, class Use>
inline __attribute__((always_inline)) void add_quads_together(const UnpackedQuads& weights, int first,
                                                              const int8_t* values, int64_t stride,
                                                              const Use& use) {
  IntLanes sums[Rows][Sums];
  sum_quads<Rows, E, 0, 8 / Sums>(weights, values, stride, sums);
  if constexpr (Sums == 2) sum_quads<Rows, E, 4, 4>(weights, values, stride, sums);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) use(first + r, sums[r]);
}

template <int Rows, Encoding E, int Sums, class Use>
inline void add_quads(const uint8_t* packed, const int8_t* values, int64_t stride, const Use& use) {
  // As many rows side by side as their sums leave registers beside the weights.
  constexpr int kQuadRows = E == Encoding::kFour ? 4 : 2;
  constexpr int kRest = Rows % kQuadRows;
  UnpackedQuads weights;
  unpack_group<E>(packed, weights.bytes[0]);
#pragma GCC unroll 8
  for (int r = 0; r < Rows - kRest; r += kQuadRows)
    add_quads_together<kQuadRows, E, Sums>(weights, r, values + r * stride, stride, use);
  if constexpr (kRest > 0)
    add_quads_together<kRest, E, Sums>(weights, Rows - kRest, values + (Rows - kRest) * stride, stride, use);
}

}  // namespace glidecape
