// What attention multiplies, in units of 32 bits: one float, or two neighbours in bfloat16, whose products
// with two others vdpbf16ps adds to a sum. A unit lies in a float's place, whatever it is.
//
//   kNumbers                 numbers in a unit
//   kWholeParts              units that hold kNumbers unrounded
//   put(row, i, x)           16 numbers of a row of units, from number i on, rounded to what a unit takes
//   put_whole(row, width, i, x)  the same unrounded: of `width` numbers in units, the rest follows behind
//                            the rounded ones, as many units again
//   add_products(sum, p, x)  to each sum the products of the unit at p with those of its lane
//   turn(keys, to, stride)   16 rows of 32 numbers -> rows of 16 units, stride apart
//   join(rows, width, to)    rows [kNumbers] of numbers -> [width] units, the first row's number first
//
// Numbers are bfloat16; units of floats take floats too.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace glidecape {

struct FloatUnits {
  static constexpr int kNumbers = 1, kWholeParts = 1;

  static void put(float* row, int64_t i, Lanes x) { store(row + i, x); }
  static void put_whole(float* row, int, int64_t i, Lanes x) { put(row, i, x); }
  static Lanes add_products(Lanes sum, const float* p, Lanes x) { return fma(all(*p), x, sum); }
  template <class Number>
  static void turn(const Number* const* keys, float* to, int64_t stride) { turn_keys(keys, to, stride); }
  template <class Number>
  static void join(const Number* const* rows, int width, float* to) {
    for (int i = 0; i < width; i += 16) store(to + i, load(rows[0] + i));
  }
};

#ifdef GLIDECAPE_AVX512
struct PairUnits {
  static constexpr int kNumbers = 2, kWholeParts = 2;

  static void put(float* row, int64_t i, Lanes x) {
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<char*>(row) + 2 * i), rounded);
  }
  // Two bfloat16 hold 16 bits of a number, which is as good as all 24 for scores (measured in docs/log.md).
  static void put_whole(float* row, int width, int64_t i, Lanes x) {
    put(row, i, x);
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16);
    put(row, width + i, x - _mm512_castsi512_ps(bits));
  }
  static Lanes add_products(Lanes sum, const float* p, Lanes x) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
    return _mm512_dpbf16_ps(sum, both, reinterpret_cast<__m512bh>(x));
  }
  static void turn(const bf16* const* keys, float* to, int64_t stride) {
    __m512i pairs[16];
    for (int i = 0; i < 16; ++i) pairs[i] = load_ints(keys[i]);
    turn_over(pairs);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * stride, pairs[i]);
  }
  static void join(const bf16* const* rows, int width, float* to) {
    // Numbers 0 … 15 of the first row in even places, those of the second one in odd places.
    alignas(64) static constexpr uint16_t kPlaces[32] = {
        0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kPlaces), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int i = 0; i < width; i += 32) {
      const __m512i first = load_ints(rows[0] + i), second = load_ints(rows[1] + i);
      _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(first, low, second));
      _mm512_storeu_si512(to + i + 16, _mm512_permutex2var_epi16(first, high, second));
    }
  }
};
#endif

}  // namespace glidecape
