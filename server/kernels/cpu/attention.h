// Attention of tree nodes over their sequence's paged KV.
//
// The queries of a block of rows (neighbours in one sequence, all query heads of one KV head) are
// treated together, 64 positions at a time, so that a long context is read and widened to floats
// once per block:
//
//   keys, turned over        scores                    values                  sums
//   [head_dim][64]     ->    [queries][positions] ->   [64][head_dim]    ->    [queries][head_dim]
//
// Both arrows are the same small product (multiply_block). What a tree's node sees inside the step is
// no run of positions: its scores are picked from those against all nodes of the tree.
//
// Each row's numbers are formed in the order of positions, never of slots or of other rows: its
// result is the same whether its ancestors sit in a tree's slots or in their final ones, and
// whatever else is in the block. Positions a row does not see have weight 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "activations.h"
#include "vector_math.h"
#include "visible.h"

namespace glidecape {

constexpr int kPositions = 64;  // in a tile

struct CacheView {
  bf16* keys;    // [num_slots][kv_heads][head_dim]
  bf16* values;  // the same
};

// Buffers of one thread.
struct AttentionScratch {
  std::vector<float> queries;      // [rows][group][head_dim], scaled
  std::vector<float> keys;         // [head_dim][kPositions]
  std::vector<float> values;       // [kPositions][head_dim]
  std::vector<float> scores;       // [rows][group][span]
  std::vector<float> node_scores;  // [rows][group][kPositions]
  std::vector<float> sums;         // [rows][group][head_dim]

  // To be called before the step: inside it, memory that is lacking could not be reported.
  // longest: tokens that a row sees at most.
  void fit(int64_t num_queries, int64_t head_dim, int64_t longest) {
    const int64_t span = (longest + 2 * kPositions) & ~static_cast<int64_t>(kPositions - 1);
    const auto grow = [](std::vector<float>& buffer, int64_t size) {
      if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
    };
    grow(queries, num_queries * head_dim);
    grow(keys, head_dim * kPositions);
    grow(values, kPositions * head_dim);
    grow(scores, num_queries * span);
    grow(node_scores, num_queries * kPositions);
    grow(sums, num_queries * head_dim);
  }
};

// The query heads of one KV head, for a block of rows.
template <class Rows>
struct AttentionTask {
  CacheView cache;
  int64_t stride;      // between slots, in elements
  int64_t offset;      // of the KV head in a slot
  int group;           // query heads per KV head
  int head_dim;        // a multiple of 32
  int64_t row_stride;  // between rows of query, in elements
  const float* query;  // [rows][…][group][head_dim], rotary applied
  Rows* out;           // row `out_row` and on, the group's heads from column `out_column` on
  int64_t out_row, out_column;
  const NodeKeys* seen;
  int rows;

  const bf16* key(int64_t slot) const { return cache.keys + slot * stride + offset; }
  const bf16* value(int64_t slot) const { return cache.values + slot * stride + offset; }

  // Tiles begin at multiples of 64 of the absolute position: neither a sliding window's start nor the
  // block's other rows move a position to another lane.
  int base() const {
    int first = seen[0].first;
    for (int r = 1; r < rows; ++r) first = std::min(first, seen[r].first);
    return first & ~(kPositions - 1);
  }
  int last() const {
    int last = seen[0].last;
    for (int r = 1; r < rows; ++r) last = std::max(last, seen[r].last);
    return last;
  }
  // Up to here, exclusively, all rows find the same token at a position.
  int shared_end() const { return seen[0].is_chain() ? last() + 1 : seen[0].context; }
};

// c[rows][16 * Vectors] = a[rows][depth] b[depth][16 * Vectors], added to what c holds if add.
template <int Rows, int Vectors>
inline void multiply_block(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                           int depth, float* c, int64_t c_stride, bool add) {
  __m512 sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      sums[r][v] = add ? _mm512_loadu_ps(c + r * c_stride + 16 * v) : _mm512_setzero_ps();
  for (int k = 0; k < depth; ++k, b += b_stride) {
    __m512 row[Vectors];
    for (int v = 0; v < Vectors; ++v) row[v] = _mm512_loadu_ps(b + 16 * v);
    for (int r = 0; r < Rows; ++r) {
      const __m512 value = _mm512_set1_ps(a[r * a_stride + k]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_fmadd_ps(value, row[v], sums[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(c + r * c_stride + 16 * v, sums[r][v]);
}

template <int Vectors>
inline void multiply_blocks(const float* a, int64_t a_stride, int rows, const float* b,
                            int64_t b_stride, int depth, float* c, int64_t c_stride, bool add) {
  constexpr int kRows = 6;
  for (; rows >= kRows; rows -= kRows, a += kRows * a_stride, c += kRows * c_stride)
    multiply_block<kRows, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
  if (rows >= 3) {
    multiply_block<3, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
    rows -= 3, a += 3 * a_stride, c += 3 * c_stride;
  }
  for (; rows > 0; --rows, a += a_stride, c += c_stride)
    multiply_block<1, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, add);
}

// r[i] lane j -> r[j] lane i
inline void turn_over(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // r[i + j] block b: column 4b + j of rows i … i + 3
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    const __m512i even1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i odd0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i odd1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
  std::copy(t, t + 16, r);
}

// Keys of kPositions slots -> to [head_dim][kPositions].
inline void turn_keys(const bf16* const* keys, int head_dim, float* to) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int first = 0; first < kPositions; first += 16) {
    for (int d = 0; d < head_dim; d += 32) {
      __m512i pairs[16];  // of neighbouring dimensions, a key per vector, then a pair per vector
      for (int i = 0; i < 16; ++i) pairs[i] = _mm512_loadu_si512(keys[first + i] + d);
      turn_over(pairs);
      for (int i = 0; i < 16; ++i) {
        float* at = to + static_cast<int64_t>(d + 2 * i) * kPositions + first;
        _mm512_storeu_ps(at, _mm512_castsi512_ps(_mm512_slli_epi32(pairs[i], 16)));
        _mm512_storeu_ps(at + kPositions, _mm512_castsi512_ps(_mm512_and_si512(pairs[i], high)));
      }
    }
  }
}

// Scores of all queries against the keys at slot(0 … count - 1) of a tile; to: [queries][to_stride].
template <class Rows, class Slot>
inline void score_tile(const AttentionTask<Rows>& task, int count, const Slot& slot,
                       AttentionScratch& scratch, float* to, int64_t to_stride) {
  const bf16* keys[kPositions];
  for (int i = 0; i < kPositions; ++i) keys[i] = task.key(slot(std::min(i, count - 1)));
  turn_keys(keys, task.head_dim, scratch.keys.data());
  multiply_blocks<4>(scratch.queries.data(), task.head_dim, task.rows * task.group,
                     scratch.keys.data(), kPositions, task.head_dim, to, to_stride, false);
}

// Scores by position: against the tokens all rows share, then, in a tree, along each row's path.
template <class Rows>
inline void score(const AttentionTask<Rows>& task, int base, int64_t span, AttentionScratch& scratch) {
  const NodeKeys& any = task.seen[0];
  const int end = task.shared_end();
  for (int start = base; start < end; start += kPositions)
    score_tile(task, std::min(kPositions, end - start), [&](int i) { return any.slot(start + i); },
               scratch, scratch.scores.data() + start - base, span);
  for (int query = 0; query < task.rows * task.group; ++query) {
    const NodeKeys& seen = task.seen[query / task.group];
    float* scores = scratch.scores.data() + query * span - base;
    std::fill(scores + base, scores + std::max(base, seen.first), -INFINITY);
    std::fill(scores + std::max(base, std::min(end, seen.last + 1)), scores + base + span, -INFINITY);
  }
  if (any.is_chain()) return;
  for (int start = 0; start < any.num_nodes; start += kPositions) {
    const int count = std::min(kPositions, any.num_nodes - start);
    score_tile(task, count, [&](int i) { return any.slots[start + i]; }, scratch,
               scratch.node_scores.data(), kPositions);
    for (int query = 0; query < task.rows * task.group; ++query) {
      const NodeKeys& seen = task.seen[query / task.group];
      const float* from = scratch.node_scores.data() + static_cast<int64_t>(query) * kPositions;
      float* to = scratch.scores.data() + query * span - base;
      for (int position = std::max(seen.first, seen.context); position <= seen.last; ++position) {
        const int node = seen.path[position - seen.context] - start;
        if (node >= 0 && node < count) to[position] = from[node];
      }
    }
  }
}

// Scores -> weights, not yet divided by their sum; returns its inverse.
inline float soften(float* scores, int64_t span) {
  __m512 largest = _mm512_set1_ps(-INFINITY);
  for (int64_t i = 0; i < span; i += 16)
    largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 total = _mm512_setzero_ps();
  for (int64_t i = 0; i < span; i += 16) {
    const __m512 weight = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
    _mm512_storeu_ps(scores + i, weight);
    total = _mm512_add_ps(total, weight);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// Sums of values under the weights, in the order of positions.
template <class Rows>
inline void add_values(const AttentionTask<Rows>& task, int base, int64_t span,
                       AttentionScratch& scratch) {
  const int dim = task.head_dim, queries = task.rows * task.group, end = task.shared_end();
  std::fill_n(scratch.sums.data(), static_cast<int64_t>(queries) * dim, 0.0f);
  for (int start = base; start < end; start += kPositions) {
    const int count = std::min(kPositions, end - start);
    for (int i = 0; i < count; ++i) {
      const bf16* value = task.value(task.seen[0].slot(start + i));
      for (int d = 0; d < dim; d += 16)
        _mm512_storeu_ps(scratch.values.data() + static_cast<int64_t>(i) * dim + d,
                         load_bf16(value + d));
    }
    const float* weights = scratch.scores.data() + start - base;
    int d = 0;
    for (; d + 64 <= dim; d += 64)
      multiply_blocks<4>(weights, span, queries, scratch.values.data() + d, dim, count,
                         scratch.sums.data() + d, dim, true);
    for (; d < dim; d += 32)
      multiply_blocks<2>(weights, span, queries, scratch.values.data() + d, dim, count,
                         scratch.sums.data() + d, dim, true);
  }
  if (task.seen[0].is_chain()) return;
  for (int query = 0; query < queries; ++query) {
    const NodeKeys& seen = task.seen[query / task.group];
    const float* weights = scratch.scores.data() + query * span - base;
    float* to = scratch.sums.data() + static_cast<int64_t>(query) * dim;
    for (int position = std::max(seen.first, seen.context); position <= seen.last; ++position) {
      const bf16* value = task.value(seen.slot(position));
      const __m512 weight = _mm512_set1_ps(weights[position]);
      for (int d = 0; d < dim; d += 16)
        _mm512_storeu_ps(to + d, _mm512_fmadd_ps(weight, load_bf16(value + d),
                                                 _mm512_loadu_ps(to + d)));
    }
  }
}

template <class Rows>
inline void attend(const AttentionTask<Rows>& task, AttentionScratch& scratch) {
  const int base = task.base(), dim = task.head_dim, queries = task.rows * task.group;
  const int64_t span = ((task.last() - base) | (kPositions - 1)) + 1;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const int64_t width = static_cast<int64_t>(task.group) * dim;
  for (int row = 0; row < task.rows; ++row)
    for (int64_t i = 0; i < width; i += 16)
      _mm512_storeu_ps(scratch.queries.data() + row * width + i,
                       _mm512_mul_ps(_mm512_loadu_ps(task.query + row * task.row_stride + i),
                                     _mm512_set1_ps(scale)));
  score(task, base, span, scratch);
  float inverse_totals[VisibleSlots::kRows * 64];
  for (int i = 0; i < queries; ++i)
    inverse_totals[i] = soften(scratch.scores.data() + i * span, span);
  add_values(task, base, span, scratch);
  for (int i = 0; i < queries; ++i) {
    const float* from = scratch.sums.data() + static_cast<int64_t>(i) * dim;
    const __m512 norm = _mm512_set1_ps(inverse_totals[i]);
    const int64_t column = task.out_column + static_cast<int64_t>(i % task.group) * dim;
    for (int d = 0; d < dim; d += kGroup)
      task.out->put(task.out_row + i / task.group, column + d,
                    _mm512_mul_ps(_mm512_loadu_ps(from + d), norm),
                    _mm512_mul_ps(_mm512_loadu_ps(from + d + 16), norm));
  }
}

}  // namespace glidecape
