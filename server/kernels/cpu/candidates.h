// The most probable tokens of a row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vector_math.h"

namespace glidecape {

constexpr int kMaxCandidates = 32;

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
  const auto load = [&](int i) {
    const __mmask16 inside = static_cast<__mmask16>((1u << std::min(16, count - i)) - 1);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), inside, logits + i);
  };
  for (int i = 0; i < count; i += 16) {
    unsigned better = _mm512_cmp_ps_mask(load(i), _mm512_set1_ps(best[wanted - 1]), _CMP_GT_OQ);
    for (; better; better &= better - 1) {
      const int index = i + __builtin_ctz(better);
      if (logits[index] > best[wanted - 1]) insert(logits[index], index);
    }
  }
  const __m512 shift = _mm512_set1_ps(best[0]);
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < count; i += 16) total = _mm512_add_ps(total, exp_ps(_mm512_sub_ps(load(i), shift)));
  const float mass = _mm512_reduce_add_ps(total);
  for (int i = 0; i < wanted; ++i) probabilities[i] = std::exp(best[i] - best[0]) / mass;
}

}  // namespace glidecape
