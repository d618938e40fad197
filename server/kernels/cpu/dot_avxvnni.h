// dot.h with AVX-VNNI, for CPUs that have vpdpbusd but not AVX-512: it adds four products of unsigned
// with signed bytes (quads.h) to 32 bits, where weights of any encoding find room.
#pragma once

#include "quads_avx2.h"
#include "wide_quads.h"

namespace glidecape {

constexpr bool kHasPairs = false, kHasQuads = true;

inline void put_values(GroupAt to, IntLanes a, IntLanes b, const WideQuads& quads) {
  put_bytes(to.quads, to_shorts(a), to_shorts(b), quads);
}

constexpr bool in_pairs(Encoding) { return false; }

// As many rows side by side as their sums leave registers beside a quad's weights.
constexpr int kQuadRows = 6;
// Up to so many rows are multiplied with weights in the registers in which they were unpacked; what has
// to come from memory, the weights of wide quads, comes last. With more rows the registers are needed
// for sums, which then begin with those of the wide quads and need no addition at the end.
constexpr int kFewRows = 2;

// Weights of a quad, of outputs 0 … 7 or 8 … 15. weights: [8 quads][16 outputs][4].
inline __m256i half_of(const uint8_t* weights, int quad, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 64 * quad + 32 * half));
}

// The sums of high values over a row's wide quads, times 128: over those among Count quads from First on.
template <int First, int Count>
inline __m256i wide_sums(const uint8_t* weights, const int8_t* group, int half) {
  const auto add = [&](__m256i sums, int i) {
    const int quad = group[kQuadsAt + i];
    __m256i four = four_of(group + kHighAt + 4 * i);
    if (Count < 8) four = _mm256_and_si256(four, _mm256_set1_epi32(-(quad / Count == First / Count)));
    return _mm256_dpbusd_avx_epi32(sums, half_of(weights, quad, half), four);
  };
  return _mm256_slli_epi32(add(add(_mm256_setzero_si256(), 0), 1), 7);
}

// The sums over Count quads from First on, of Rows rows side by side.
template <int Rows, int First, int Count>
inline __attribute__((always_inline)) void sum_quads(const uint8_t* weights, const int8_t* values,
                                                     int64_t stride, IntLanes (*to)[8 / Count]) {
  constexpr bool kFew = Rows <= kFewRows;
  __m256i sums[Rows][2];  // of outputs 0 … 7, and of 8 … 15
  const auto keep = [&](int r, int half, __m256i x) {
    if (!kFew) settle(x);
    sums[r][half] = x;
  };
  const auto wide = [&](int r, int half) {
    return wide_sums<First, Count>(weights, values + r * stride, half);
  };
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
    for (int half = 0; half < 2; ++half)
      keep(r, half, kFew ? _mm256_setzero_si256() : wide(r, half));
#pragma GCC unroll 8
  for (int quad = First; quad < First + Count; ++quad) {
    const __m256i quads[2] = {half_of(weights, quad, 0), half_of(weights, quad, 1)};
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const __m256i four = four_of(values + r * stride + 4 * quad);
      for (int half = 0; half < 2; ++half)
        keep(r, half, _mm256_dpbusd_avx_epi32(sums[r][half], quads[half], four));
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    IntLanes whole{sums[r][0], sums[r][1]};
    if constexpr (kFew) whole = add(whole, {wide(r, 0), wide(r, 1)});
    to[r][First / Count] = whole;
  }
}

// The rows are taken in parts of about equal height.
template <int Rows, int Sums, class Use>
inline __attribute__((always_inline)) void add_quads(const uint8_t* weights, const int8_t* values,
                                                     int64_t stride, const Use& use, int first = 0) {
  constexpr int kParts = (Rows + kQuadRows - 1) / kQuadRows, kNow = (Rows + kParts - 1) / kParts;
  IntLanes sums[kNow][Sums];
  sum_quads<kNow, 0, 8 / Sums>(weights, values, stride, sums);
  if constexpr (Sums == 2) sum_quads<kNow, 4, 4>(weights, values, stride, sums);
#pragma GCC unroll 6
  for (int r = 0; r < kNow; ++r) use(first + r, sums[r]);
  if constexpr (Rows > kNow)
    add_quads<Rows - kNow, Sums>(weights, values + kNow * stride, stride, use, first + kNow);
}

template <int Rows, Encoding E, int Sums, class Use>
inline void add_dots(const uint8_t* packed, const int8_t* values, int64_t stride, const Use& use) {
  if constexpr (E == Encoding::kEight) {
    add_quads<Rows, Sums>(packed, values, stride, use);
  } else {
    UnpackedQuads weights;
    unpack_group<E>(packed, weights.bytes[0]);
    // In memory, as far as GCC knows: else it keeps all weights in registers, and the sums in memory.
    if constexpr (Rows > kFewRows) asm("" : "+m"(weights.bytes));
    add_quads<Rows, Sums>(weights.bytes[0], values, stride, use);
  }
}

}  // namespace glidecape
