// The most probable tokens of rows of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector_math.h"

namespace glidecape {

constexpr int kMaxCandidates = 32;

// The largest of some numbers, the first among equals; -1 if one is NaN.
inline int64_t largest_of(const float* numbers, int64_t count) {
  Lanes most = all(-INFINITY);
  bool is_broken = false;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const Lanes some = load(numbers + i);
    is_broken |= unordered(some, some);
    most = max(most, some);
  }
  float best = largest(most);
  for (int64_t rest = i; rest < count; ++rest) {
    is_broken |= std::isnan(numbers[rest]);
    best = std::max(best, numbers[rest]);
  }
  return is_broken ? -1 : std::find(numbers, numbers + count, best) - numbers;
}

// Best first, the lower index first among equals. indices, probabilities: [wanted], wanted at most
// kMaxCandidates and count.
inline void most_probable(const float* logits, int count, int wanted, int64_t* indices,
                          float* probabilities) {
  float best[kMaxCandidates];
  std::fill_n(best, wanted, -INFINITY);
  std::fill_n(indices, wanted, int64_t{0});
  const auto insert = [&](float value, int index) {
    int at = wanted - 1;
    for (; at > 0 && best[at - 1] < value; --at) {
      best[at] = best[at - 1];
      indices[at] = indices[at - 1];
    }
    best[at] = value;
    indices[at] = index;
  };
  const auto at = [&](int i) { return load_first(logits + i, count - i, -INFINITY); };
  for (int i = 0; i < count; i += 16) {
    unsigned better = greater(at(i), all(best[wanted - 1]));
    for (; better; better &= better - 1) {
      const int index = i + __builtin_ctz(better);
      if (logits[index] > best[wanted - 1]) insert(logits[index], index);
    }
  }
  Lanes total = all(0.0f);
  for (int i = 0; i < count; i += 16) total = total + exp(at(i) - all(best[0]));
  const float mass = sum(total);
  for (int i = 0; i < wanted; ++i) probabilities[i] = std::exp(best[i] - best[0]) / mass;
}

}  // namespace glidecape
