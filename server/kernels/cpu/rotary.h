// Rotary angles of the rows of a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "decoder.h"

namespace glidecape {

class Rotary {
 public:
  Rotary(const GlidecapeRotary& from, int head_dim)
      : half_(head_dim / 2), scale_(from.scale), theta_(from.theta), factor_(from.factor),
        trained_(from.trained), frequencies_(from.frequencies, from.frequencies + head_dim / 2) {}

  void find(const int64_t* positions, int64_t rows) {
    cos_.resize(rows * half_);
    sin_.resize(rows * half_);
    for (int64_t row = 0; row < rows; ++row) {
      if (trained_) grow(positions[row]);
      const auto position = static_cast<float>(positions[row]);
      for (int64_t i = 0; i < half_; ++i) {
        const float angle = position * frequencies_[i];
        cos_[row * half_ + i] = std::cos(angle) * scale_;
        sin_[row * half_ + i] = std::sin(angle) * scale_;
      }
    }
  }

  // [head_dim / 2]: the head's second half has the same ones.
  const float* cos(int64_t row) const { return cos_.data() + row * half_; }
  const float* sin(int64_t row) const { return sin_.data() + row * half_; }

 private:
  // Frequencies of a context that ends with this position, see RotaryEmbedding in models/rope.py.
  void grow(int64_t position) {
    const float dim = static_cast<float>(2 * half_);
    const auto length = static_cast<float>(std::max<int64_t>(position + 1, trained_));
    const float growth = factor_ * length / static_cast<float>(trained_) - (factor_ - 1.0f);
    const float base = theta_ * std::pow(growth, dim / (dim - 2.0f));
    for (int64_t i = 0; i < half_; ++i)
      frequencies_[i] = 1.0f / std::pow(base, static_cast<float>(2 * i) / dim);
  }

  const int64_t half_;
  const float scale_, theta_, factor_;
  const int trained_;
  std::vector<float> frequencies_, cos_, sin_;
};

}  // namespace glidecape
