// Rows of activations in the form that matrix products take.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vector_math.h"

namespace glidecape {

constexpr int kGroup = 32;  // neighbours of a row that are written together, and share a scale

// Floats, or floats rounded to bfloat16.
template <class X>
class PlainRows {
 public:
  // Contents are unspecified after it.
  void resize(int64_t rows, int width) {
    width_ = (width + kGroup - 1) / kGroup * kGroup;
    values_.resize(rows * width_);
  }

  // Neighbours first … first + 31 of a row, first a multiple of 32. Beyond the row's width they have
  // to be 0.
  void put(int64_t row, int64_t first, __m512 a, __m512 b) {
    store(values_.data() + row * width_ + first, a);
    store(values_.data() + row * width_ + first + 16, b);
  }

  const X* row(int64_t row) const { return values_.data() + row * width_; }
  int64_t stride() const { return width_; }

 private:
  int64_t width_ = 0;
  std::vector<X> values_;
};

// 12-bit integers with a scale per group, as two bytes: x = scale * (16 * high + low), high from -127
// to 127, low from -8 to 7. Eight bits would do for most rows, but a group's one large value (and
// models have such channels) takes them all from its neighbours.
//
//   a group: high [32] | low [32], one cache line
class QuantizedRows {
 public:
  static constexpr int kGroupBytes = 2 * kGroup;
  static constexpr float kLargest = 16 * 127;

  void resize(int64_t rows, int width) {
    groups_ = (width + kGroup - 1) / kGroup;
    bytes_.resize(rows * stride());
    scales_.resize(rows * groups_);
    sums_.resize(rows * groups_);
  }

  void put(int64_t row, int64_t first, __m512 a, __m512 b) {
    const __m512 sign = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff));
    const float largest = _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_and_ps(a, sign), _mm512_and_ps(b, sign)));
    float scale = largest / kLargest;
    const float inverse = largest > 0.0f ? kLargest / largest : 0.0f;
    if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q)) scale = NAN;  // not to be mistaken for numbers
    const int64_t group = row * groups_ + first / kGroup;
    int8_t* to = bytes_.data() + group * kGroupBytes;
    const __m512i sum = _mm512_add_epi32(put_half(a, inverse, to), put_half(b, inverse, to + 16));
    scales_[group] = scale;
    sums_[group] = scale * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }

  const int8_t* row(int64_t row) const { return bytes_.data() + row * stride(); }
  const float* scales(int64_t row) const { return scales_.data() + row * groups_; }
  // Per group the sum of its (scaled) values: what a weight's offset is multiplied with.
  const float* sums(int64_t row) const { return sums_.data() + row * groups_; }
  int64_t stride() const { return groups_ * kGroupBytes; }
  int64_t groups() const { return groups_; }

 private:
  // 16 values; returns them as integers.
  static __m512i put_half(__m512 x, float inverse, int8_t* to) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(8)), 4);
    const __m512i low = _mm512_sub_epi32(value, _mm512_slli_epi32(high, 4));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + kGroup), _mm512_cvtepi32_epi8(low));
    return value;
  }

  int64_t groups_ = 0;
  std::vector<int8_t> bytes_;
  std::vector<float> scales_, sums_;
};

// A bfloat16 row into a row of either kind.
template <class Rows>
inline void put_row(Rows& rows, int64_t row, const bf16* from, int width) {
  alignas(64) float group[kGroup];
  for (int first = 0; first < width; first += kGroup) {
    const int count = std::min(kGroup, width - first);
    std::fill(group + count, group + kGroup, 0.0f);
    widen(from + first, count, group);
    rows.put(row, first, _mm512_load_ps(group), _mm512_load_ps(group + 16));
  }
}

}  // namespace glidecape
