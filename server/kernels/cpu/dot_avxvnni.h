// dot.h with AVX-VNNI, for CPUs that have vpdpbusd but not AVX-512: it adds four products of unsigned
// with signed bytes (quads.h) to 32 bits, where weights of 8 bits find room too.
#pragma once

#include "quads_avx2.h"
#include "wide_quads.h"

namespace glidecape {

constexpr int kGroupBytes = kQuadsBytes;

inline void put_values(int8_t* group, IntLanes a, IntLanes b, const WideQuads& quads) {
  alignas(32) int16_t shorts[kGroup];
  store_shorts(shorts, a);
  store_shorts(shorts + 16, b);
  put_bytes(group, shorts, quads);
}

inline void place(uint8_t* to, int bits, int lane, int i, uint8_t value) {
  place_in_quads(to, bits, lane, i, value);
}

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

// The sums of high values over a row's wide quads, times 128.
inline __m256i wide_sums(const uint8_t* weights, const int8_t* group, int half) {
  const auto add = [&](__m256i sums, int i) {
    const __m256i wide = half_of(weights, group[kQuadsAt + i], half);
    return _mm256_dpbusd_avx_epi32(sums, wide, four_of(group + kHighAt + 4 * i));
  };
  return _mm256_slli_epi32(add(add(_mm256_setzero_si256(), 0), 1), 7);
}

template <int Rows, class Use>
inline __attribute__((always_inline)) void add_quads_together(const uint8_t* weights, int first,
                                                              const int8_t* values, int64_t stride,
                                                              const Use& use) {
  constexpr bool kFew = Rows <= kFewRows;
  __m256i sums[Rows][2];  // of outputs 0 … 7, and of 8 … 15
  const auto keep = [&](int r, int half, __m256i x) {
    if (!kFew) settle(x);
    sums[r][half] = x;
  };
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
    for (int half = 0; half < 2; ++half)
      keep(r, half, kFew ? _mm256_setzero_si256() : wide_sums(weights, values + r * stride, half));
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
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
    if constexpr (kFew) {
      const int8_t* group = values + r * stride;
      whole = add(whole, {wide_sums(weights, group, 0), wide_sums(weights, group, 1)});
    }
    use(first + r, whole);
  }
}

// The rows are taken in parts of about equal height.
template <int Rows, class Use>
inline __attribute__((always_inline)) void add_quads(const uint8_t* weights, const int8_t* values,
                                                     int64_t stride, const Use& use, int first = 0) {
  constexpr int kParts = (Rows + kQuadRows - 1) / kQuadRows, kNow = (Rows + kParts - 1) / kParts;
  add_quads_together<kNow>(weights, first, values, stride, use);
  if constexpr (Rows > kNow)
    add_quads<Rows - kNow>(weights, values + kNow * stride, stride, use, first + kNow);
}

template <int Rows, int Bits, class Use>
inline void add_dots(const uint8_t* weights, const int8_t* values, int64_t stride, const Use& use) {
  if constexpr (Bits == 8) {
    add_quads<Rows>(weights, values, stride, use);
  } else {
    UnpackedQuads unpacked(weights);
    // In memory, as far as GCC knows: else it keeps all weights in registers, and the sums in memory.
    if constexpr (Rows > kFewRows) asm("" : "+m"(unpacked.bytes));
    add_quads<Rows>(reinterpret_cast<const uint8_t*>(unpacked.bytes), values, stride, use);
  }
}

}  // namespace glidecape
