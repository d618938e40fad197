// Rows of activations in the form that matrix products take.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "dot.h"
#include "vector_math.h"

namespace glidecape {

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
  void put(int64_t row, int64_t first, Lanes a, Lanes b) {
    store(values_.data() + row * width_ + first, a);
    store(values_.data() + row * width_ + first + 16, b);
  }

  const X* row(int64_t row) const { return values_.data() + row * width_; }
  int64_t stride() const { return width_; }

 private:
  int64_t width_ = 0;
  std::vector<X> values_;
};

// 12-bit integers with a scale per group: x = scale * value, values from -2032 to 2032. Eight bits
// would do for most rows, but a group's one large value (and models have such channels) takes them all
// from its neighbours. How the values lie in a group: dot.h.
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

  void put(int64_t row, int64_t first, Lanes a, Lanes b) {
    const float largest = glidecape::largest(max(abs(a), abs(b)));
    float scale = largest / kLargest;
    const float inverse = largest > 0.0f ? kLargest / largest : 0.0f;
    if (unordered(a, b)) scale = NAN;  // not to be mistaken for numbers
    const int64_t group = row * groups_ + first / kGroup;
    int8_t* to = bytes_.data() + group * kGroupBytes;
    const int sum = put_half(a, inverse, to, 0) + put_half(b, inverse, to, 16);
    scales_[group] = scale;
    sums_[group] = scale * static_cast<float>(sum);
  }

  const int8_t* row(int64_t row) const { return bytes_.data() + row * stride(); }
  const float* scales(int64_t row) const { return scales_.data() + row * groups_; }
  // Per group the sum of its (scaled) values: what a weight's offset is multiplied with.
  const float* sums(int64_t row) const { return sums_.data() + row * groups_; }
  int64_t stride() const { return groups_ * kGroupBytes; }
  int64_t groups() const { return groups_; }

 private:
  // 16 values; returns the sum of their integers.
  static int put_half(Lanes x, float inverse, int8_t* to, int first) {
    const IntLanes value = to_ints(x * all(inverse));
    put_12_bits(value, to, first);
    return sum(value);
  }

  int64_t groups_ = 0;
  std::vector<int8_t> bytes_;
  std::vector<float> scales_, sums_;
};

// width bfloat16 numbers into a row of either kind, from column `at` on, a multiple of 32.
template <class Rows>
inline void put_row(Rows& rows, int64_t row, int64_t at, const bf16* from, int width) {
  alignas(64) float group[kGroup];
  for (int first = 0; first < width; first += kGroup) {
    const int count = std::min(kGroup, width - first);
    std::fill(group + count, group + kGroup, 0.0f);
    widen(from + first, count, group);
    rows.put(row, at + first, load(group), load(group + 16));
  }
}

}  // namespace glidecape
