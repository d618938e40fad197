// Attention of tree nodes over their sequence's paged KV.
//
// A block of rows (neighbours in one sequence) is treated together, so that a long context is read
// once per block and not once per row:
//
//   positions   0 … 15 | 16 … 31 | …           scores  every row against a chunk of 16 keys
//   row 0       ████████████████▌              softmax per row
//   row 1       ████████████████▊              values  every row against a chunk of 64 values
//
// Each row's numbers are formed in the order of positions, never of slots or of other rows: its
// result is the same whether its ancestors sit in a tree's slots or in their final ones, and
// whatever else is in the block.
#pragma once

#include <algorithm>
#include <cmath>

#include "vector_math.h"
#include "visible.h"

namespace glidecape {

struct CacheView {
  bf16* keys;    // [num_slots][kv_heads][head_dim]
  bf16* values;  // the same
};

// The query heads of one KV head, for a block of rows.
struct AttentionTask {
  CacheView cache;
  int64_t stride;      // between slots, in elements
  int64_t offset;      // of the KV head in a slot
  int group;           // query heads per KV head
  int head_dim;        // a multiple of 32
  int64_t row_stride;  // between rows of query and out, in elements
  const bf16* query;   // [rows][…][group][head_dim], rotary applied
  bf16* out;           // the same shape
  const NodeKeys* seen;
  int rows;
  float* scores;  // scratch [rows][group][span]
  float* sums;    // scratch [rows][group][head_dim]

  // Chunks begin at multiples of 16 of the absolute position: neither a sliding window's start nor
  // the block's other rows move a key to another lane.
  int base() const {
    int first = seen[0].first;
    for (int r = 1; r < rows; ++r) first = std::min(first, seen[r].first);
    return first & ~15;
  }
  int span() const {
    int last = seen[0].last;
    for (int r = 1; r < rows; ++r) last = std::max(last, seen[r].last);
    return ((last - base()) | 15) + 1;
  }
};

// Scores of one row against the 16 keys from position `start` on.
inline void score_chunk(const AttentionTask& task, int row, const bf16* const* keys, int start,
                        int base, int span, float scale) {
  const NodeKeys& seen = task.seen[row];
  const int below = std::clamp(seen.first - start, 0, 16);
  const int above = std::clamp(start + 15 - seen.last, 0, 16);
  const __mmask16 valid = static_cast<__mmask16>((0xffffu << below) & (0xffffu >> above));
  for (int head = 0; head < task.group; ++head) {
    const bf16* q = task.query + row * task.row_stride + head * task.head_dim;
    __m512 dots[16];
    for (int i = 0; i < 16; ++i) {
      __m512 dot = _mm512_setzero_ps();
      for (int d = 0; d < task.head_dim; d += 32)
        dot = _mm512_dpbf16_ps(dot, load_pairs(q + d), load_pairs(keys[i] + d));
      dots[i] = dot;
    }
    const __m512 sums = _mm512_mul_ps(sum_lanes(dots), _mm512_set1_ps(scale));
    float* to = task.scores + (static_cast<int64_t>(row) * task.group + head) * span + start - base;
    _mm512_storeu_ps(to, _mm512_mask_blend_ps(valid, _mm512_set1_ps(-INFINITY), sums));
  }
}

inline void score(const AttentionTask& task, int base, int span) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(task.head_dim));
  const int end = base + span - 1;
  for (int start = base; start <= end; start += 16) {
    const bf16* keys[16];
    const int64_t* path = nullptr;
    for (int row = 0; row < task.rows; ++row) {
      const NodeKeys& seen = task.seen[row];
      if (path != seen.path) {
        // Rows of a chain share their path, the last of them has all of it.
        path = seen.path;
        int last = seen.last;
        for (int r = row + 1; r < task.rows; ++r)
          if (task.seen[r].path == path) last = std::max(last, task.seen[r].last);
        for (int i = 0; i < 16; ++i)
          keys[i] = task.cache.keys + seen.slot(std::min(start + i, last)) * task.stride + task.offset;
      }
      score_chunk(task, row, keys, start, base, span, scale);
    }
  }
}

// Scores -> weights, not yet divided by their sum; returns its inverse.
inline float soften(float* scores, int span) {
  __m512 largest = _mm512_set1_ps(-INFINITY);
  for (int i = 0; i < span; i += 16) largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < span; i += 16) {
    const __m512 weight = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
    _mm512_storeu_ps(scores + i, weight);
    total = _mm512_add_ps(total, weight);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// Adds the values at positions [start, end) to a row's sums, up to 4 heads and 32 dimensions at once.
inline void add_values(const AttentionTask& task, int row, int start, int end, int base, int span) {
  const NodeKeys& seen = task.seen[row];
  start = std::max(start, seen.first);
  end = std::min(end, seen.last + 1);
  for (int d = 0; d < task.head_dim && start < end; d += 32) {
    for (int head = 0; head < task.group; head += 4) {
      const int heads = std::min(4, task.group - head);
      const int64_t index = static_cast<int64_t>(row) * task.group + head;
      float* to = task.sums + index * task.head_dim + d;
      const float* weights = task.scores + index * span - base;
      __m512 sums[4][2];
      for (int h = 0; h < heads; ++h)
        for (int i = 0; i < 2; ++i) sums[h][i] = _mm512_loadu_ps(to + h * task.head_dim + 16 * i);
      for (int position = start; position < end; ++position) {
        const bf16* value = task.cache.values + seen.slot(position) * task.stride + task.offset + d;
        const __m512 v0 = load_bf16(value), v1 = load_bf16(value + 16);
        for (int h = 0; h < heads; ++h) {
          const __m512 weight = _mm512_set1_ps(weights[static_cast<int64_t>(h) * span + position]);
          sums[h][0] = _mm512_fmadd_ps(weight, v0, sums[h][0]);
          sums[h][1] = _mm512_fmadd_ps(weight, v1, sums[h][1]);
        }
      }
      for (int h = 0; h < heads; ++h)
        for (int i = 0; i < 2; ++i) _mm512_storeu_ps(to + h * task.head_dim + 16 * i, sums[h][i]);
    }
  }
}

inline void attend(const AttentionTask& task) {
  const int base = task.base(), span = task.span();
  const int64_t width = static_cast<int64_t>(task.group) * task.head_dim;
  score(task, base, span);
  std::fill(task.sums, task.sums + task.rows * width, 0.0f);
  float inverse_totals[VisibleSlots::kRows * 64];
  for (int i = 0; i < task.rows * task.group; ++i)
    inverse_totals[i] = soften(task.scores + static_cast<int64_t>(i) * span, span);
  for (int start = base; start < base + span; start += 64)
    for (int row = 0; row < task.rows; ++row)
      add_values(task, row, start, start + 64, base, span);
  for (int row = 0; row < task.rows; ++row) {
    const float* from = task.sums + row * width;
    bf16* to = task.out + row * task.row_stride;
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 norm = _mm512_set1_ps(inverse_totals[row * task.group + i / task.head_dim]);
      store_bf16(to + i, _mm512_mul_ps(_mm512_loadu_ps(from + i), norm));
    }
  }
}

}  // namespace glidecape
