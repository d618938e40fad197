// Attention of one tree node over its sequence's paged KV.
//
// The node sees one key per position: committed positions through the block table, later ones
// through its path in the step's tree. Scores and sums are laid out by position, never by slot, so
// a token's result is the same whether its ancestors sit in a tree's slots or in their final ones.
#pragma once

#include <cmath>

#include "vector_math.h"

namespace glidecape {

struct CacheView {
  bf16* keys;    // [num_slots][kv_heads][head_dim]
  bf16* values;  // the same
};

// Slots of the positions [first, last] that a node sees, ascending.
struct VisibleKeys {
  const int64_t* slots;  // by position - first
  int first;
  int last;
};

// Computes the query heads of one KV head for one node.
//   query: [group][head_dim] bf16, rotary applied;  out: [group][head_dim] bf16
//   scores: scratch of group * (positions rounded up to 16, plus 16) floats
inline void attend(const bf16* query, int group, int head_dim, const CacheView& cache, int kv_heads,
                   int kv_head, const VisibleKeys& seen, float scale, float* scores, bf16* out) {
  const int64_t stride = static_cast<int64_t>(kv_heads) * head_dim;
  const int64_t offset = static_cast<int64_t>(kv_head) * head_dim;
  // Chunks of 16 begin at multiples of 16 of the absolute position: a sliding window's start then
  // does not move a key to another lane.
  const int base = seen.first & ~15;
  const int span = ((seen.last - base) | 15) + 1;
  const __m512 minus_infinity = _mm512_set1_ps(-INFINITY);

  for (int chunk = 0; chunk < span; chunk += 16) {
    const bf16* keys[16];
    __mmask16 valid = 0;
    for (int i = 0; i < 16; ++i) {
      const int position = base + chunk + i;
      const bool inside = position >= seen.first && position <= seen.last;
      const int known = inside ? position - seen.first : 0;
      keys[i] = cache.keys + seen.slots[known] * stride + offset;
      valid |= static_cast<__mmask16>(inside) << i;
    }
    for (int head = 0; head < group; ++head) {
      const bf16* q = query + head * head_dim;
      __m512 dots[16];
      for (int i = 0; i < 16; ++i) {
        __m512 dot = _mm512_setzero_ps();
        for (int d = 0; d < head_dim; d += 32)
          dot = _mm512_dpbf16_ps(dot, load_pairs(q + d), load_pairs(keys[i] + d));
        dots[i] = dot;
      }
      const __m512 sums = _mm512_mul_ps(sum_lanes(dots), _mm512_set1_ps(scale));
      _mm512_storeu_ps(scores + head * span + chunk,
                       _mm512_mask_blend_ps(valid, minus_infinity, sums));
    }
  }

  float inverse_total[64];
  for (int head = 0; head < group; ++head) {
    float* row = scores + head * span;
    __m512 largest = minus_infinity;
    for (int i = 0; i < span; i += 16) largest = _mm512_max_ps(largest, _mm512_loadu_ps(row + i));
    const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    __m512 total = _mm512_setzero_ps();
    for (int i = 0; i < span; i += 16) {
      const __m512 weight = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(row + i), shift));
      _mm512_storeu_ps(row + i, weight);
      total = _mm512_add_ps(total, weight);
    }
    inverse_total[head] = 1.0f / _mm512_reduce_add_ps(total);
  }

  for (int d = 0; d < head_dim; d += 32) {
    for (int head = 0; head < group; head += 4) {
      const int heads = group - head < 4 ? group - head : 4;
      __m512 sums[4][2];
      for (int h = 0; h < 4; ++h) sums[h][0] = sums[h][1] = _mm512_setzero_ps();
      for (int position = seen.first; position <= seen.last; ++position) {
        const bf16* value = cache.values + seen.slots[position - seen.first] * stride + offset + d;
        const __m512 v0 = load_bf16(value), v1 = load_bf16(value + 16);
        for (int h = 0; h < heads; ++h) {
          const __m512 weight = _mm512_set1_ps(scores[(head + h) * span + position - base]);
          sums[h][0] = _mm512_fmadd_ps(weight, v0, sums[h][0]);
          sums[h][1] = _mm512_fmadd_ps(weight, v1, sums[h][1]);
        }
      }
      for (int h = 0; h < heads; ++h) {
        const __m512 norm = _mm512_set1_ps(inverse_total[head + h]);
        store_bf16(out + (head + h) * head_dim + d, _mm512_mul_ps(sums[h][0], norm));
        store_bf16(out + (head + h) * head_dim + d + 16, _mm512_mul_ps(sums[h][1], norm));
      }
    }
  }
}

}  // namespace glidecape
