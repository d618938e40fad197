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

// Integers with a scale per group: x = scale * value, values of 8 bits but for up to two wide quads (dot.h).
class QuantizedRows {
 public:
  void resize(int64_t rows, int width) {
    groups_ = (width + kGroup - 1) / kGroup;
    if (kHasPairs) pairs_.resize(rows * groups_ * kPairsBytes);
    if (kHasQuads) quads_.resize(rows * groups_ * kQuadsBytes);
    scales_.resize(rows * groups_);
    sums_.resize(rows * groups_);
    half_sums_.resize(rows * groups_ * 2);
  }

  void put(int64_t row, int64_t first, Lanes a, Lanes b) {
    const WideQuads quads = find_wide_quads(a, b);
    float scale = std::max(quads.rest / kLargest, quads.largest / kLargestWide);
    // Of what is smaller, even the inverse of the scale is no number.
    const float inverse = scale > kSmallest ? 1.0f / scale : 0.0f;
    const IntLanes low = to_ints(a * all(inverse)), high = to_ints(b * all(inverse));
    if (unordered(a, b) || !std::isfinite(scale)) scale = NAN;  // not to be mistaken for numbers
    const int64_t group = row * groups_ + first / kGroup;
    put_values({kHasPairs ? pairs_.data() + group * kPairsBytes : nullptr,
                kHasQuads ? quads_.data() + group * kQuadsBytes : nullptr}, low, high, quads);
    scales_[group] = scale;
    // Exact as floats, as their sum is.
    const auto sum_of_low = static_cast<float>(sum(low)), sum_of_high = static_cast<float>(sum(high));
    sums_[group] = scale * (sum_of_low + sum_of_high);
    half_sums_[2 * group] = scale * sum_of_low;
    half_sums_[2 * group + 1] = scale * sum_of_high;
  }

  // In the form in which weights of E are multiplied.
  template <Encoding E>
  const int8_t* row(int64_t row) const {
    return (in_pairs(E) ? pairs_ : quads_).data() + row * stride<E>();
  }
  const float* scales(int64_t row) const { return scales_.data() + row * groups_; }
  // Per group the sum of its (scaled) values: what a weight's offset is multiplied with.
  const float* sums(int64_t row) const { return sums_.data() + row * groups_; }
  // The same of the first and second 16 of each group.
  const float* half_sums(int64_t row) const { return half_sums_.data() + row * groups_ * 2; }
  template <Encoding E>
  int64_t stride() const {
    return groups_ * group_bytes(in_pairs(E));
  }
  int64_t groups() const { return groups_; }

 private:
  static constexpr float kSmallest = 1e-38f;

  int64_t groups_ = 0;
  std::vector<int8_t> pairs_, quads_;
  std::vector<float> scales_, sums_, half_sums_;
};

inline void widen(const float* from, int count, float* to) { std::copy_n(from, count, to); }

// width numbers, bfloat16 or floats, into a row of any kind, from column `at` on, a multiple of 32.
template <class Rows, class Number>
inline void put_row(Rows& rows, int64_t row, int64_t at, const Number* from, int width) {
  alignas(64) float group[kGroup];
  for (int first = 0; first < width; first += kGroup) {
    const int count = std::min(kGroup, width - first);
    std::fill(group + count, group + kGroup, 0.0f);
    widen(from + first, count, group);
    rows.put(row, at + first, load(group), load(group + 16));
  }
}

}  // namespace glidecape
