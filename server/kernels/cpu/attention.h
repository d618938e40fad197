// Attention of tree nodes over their sequence's paged KV.
//
// The queries of a block of rows (neighbours in one sequence, all query heads of one KV head) are
// treated together, 64 positions at a time, so that a long context is read and widened to floats
// once per block:
//
//   keys, turned over        scores                    values                  sums
//   [head_dim][64]     ->    [queries][positions] ->   [64][head_dim]    ->    [queries][head_dim]
//
// Both arrows are the same small product (multiply_block), of floats or of pairs of bfloat16 (units.h):
// pairs of neighbours in a head, then of neighbouring positions, the first one even. What a tree's node
// sees inside the step is no run of positions: its scores are picked from those against all nodes of the
// tree, and its last values are added one unit after another.
//
// Each row's numbers are formed in the order of positions, never of slots or of other rows: its
// result is the same whether its ancestors sit in a tree's slots or in their final ones, and
// whatever else is in the block. Positions a row does not see have weight 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "activations.h"
#include "units.h"
#include "vector_math.h"
#include "visible.h"

namespace glidecape {

constexpr int kPositions = 64;  // in a tile

struct CacheView {
  bf16* keys;    // [num_slots][kv_heads][head_dim]
  bf16* values;  // the same
};

// Buffers of one thread. Queries, keys, values and weights are in units; the sizes below are those of
// floats, of which pairs take half, but for queries, which they hold unrounded, in two parts.
struct AttentionScratch {
  std::vector<float> queries;      // [rows][group][head_dim], scaled
  std::vector<float> keys;         // [head_dim][kPositions]
  std::vector<float> values;       // [kPositions][head_dim]
  std::vector<float> scores;       // [rows][group][span]; the weights take their places
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

  // Asks memory for a tile's keys or values, from position `start` on: tokens lie anywhere in the pool,
  // so that nobody else foresees what is read next.
  void fetch_keys(int start) const { fetch(cache.keys, start); }
  void fetch_values(int start) const { fetch(cache.values, start); }

 private:
  void fetch(const bf16* from, int start) const {
    const int end = std::min(start + kPositions, shared_end());
    for (int position = start; position < end; ++position) {
      const bf16* token = from + seen[0].slot(position) * stride + offset;
      for (int d = 0; d < head_dim; d += 32) __builtin_prefetch(token + d);
    }
  }
};

// c[rows][16 * Vectors] = a[rows][depth] b[depth][16 * Vectors], added to what c holds if add. depth
// and the strides of a and b are in units. A row of a may have further parts behind it, for the same b.
template <class Units, int Rows, int Vectors, int Parts>
inline void multiply_block(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                           int depth, float* c, int64_t c_stride, bool add) {
  Lanes sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = add ? load(c + r * c_stride + 16 * v) : all(0.0f);
  for (int k = 0; k < depth; ++k, b += b_stride) {
    Lanes row[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) row[v] = load(b + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int part = 0; part < Parts; ++part)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
          sums[r][v] = Units::add_products(sums[r][v], a + r * a_stride + part * depth + k, row[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(c + r * c_stride + 16 * v, sums[r][v]);
}

// The same for any number of rows, cut into blocks whose sums fit the registers.
template <class Units, int Vectors, int Parts>
inline void multiply_blocks(const float* a, int64_t a_stride, int rows, const float* b,
                            int64_t b_stride, int depth, float* c, int64_t c_stride, bool add) {
  constexpr int kRows = std::min(6, kTileLanes), kHalf = (kRows + 1) / 2;
  constexpr int kVectors = std::min(Vectors, kTileLanes / kRows);
  for (int done = 0; done < rows;) {
    const int left = rows - done, count = left >= kRows ? kRows : left >= kHalf ? kHalf : 1;
    const auto multiply = count == kRows   ? multiply_block<Units, kRows, kVectors, Parts>
                          : count == kHalf ? multiply_block<Units, kHalf, kVectors, Parts>
                                           : multiply_block<Units, 1, kVectors, Parts>;
    for (int v = 0; v < 16 * Vectors; v += 16 * kVectors)
      multiply(a + done * a_stride, a_stride, b + v, b_stride, depth, c + done * c_stride + v, c_stride, add);
    done += count;
  }
}

// Scores of all queries against the keys at slot(0 … count - 1) of a tile; to: [queries][to_stride].
template <class Units, class Rows, class Slot>
inline void score_tile(const AttentionTask<Rows>& task, int count, const Slot& slot,
                       AttentionScratch& scratch, float* to, int64_t to_stride) {
  constexpr int kUnits = 32 / Units::kNumbers;
  for (int first = 0; first < kPositions; first += 16) {
    const bf16* keys[16];
    for (int i = 0; i < 16; ++i) keys[i] = task.key(slot(std::min(first + i, count - 1)));
    float* turned = scratch.keys.data() + first;
    for (int d = 0; d < task.head_dim; d += 32, turned += kUnits * kPositions) {
      Units::turn(keys, turned, kPositions);
      for (const bf16*& key : keys) key += 32;
    }
  }
  multiply_blocks<Units, 4, Units::kWholeParts>(
      scratch.queries.data(), task.head_dim, task.rows * task.group, scratch.keys.data(), kPositions,
      task.head_dim / Units::kNumbers, to, to_stride, false);
}

// Scores by position: against the tokens all rows share, then, in a tree, along each row's path.
template <class Units, class Rows>
inline void score(const AttentionTask<Rows>& task, int base, int64_t span, AttentionScratch& scratch) {
  const NodeKeys& any = task.seen[0];
  const int end = task.shared_end();
  for (int start = base; start < end; start += kPositions) {
    if (start + kPositions < end) task.fetch_keys(start + kPositions);
    else task.fetch_values(base);
    score_tile<Units>(task, std::min(kPositions, end - start), [&](int i) { return any.slot(start + i); },
                      scratch, scratch.scores.data() + start - base, span);
  }
  for (int query = 0; query < task.rows * task.group; ++query) {
    const NodeKeys& seen = task.seen[query / task.group];
    float* scores = scratch.scores.data() + query * span - base;
    std::fill(scores + base, scores + std::max(base, seen.first), -INFINITY);
    std::fill(scores + std::max(base, std::min(end, seen.last + 1)), scores + base + span, -INFINITY);
  }
  if (any.is_chain()) return;
  for (int start = 0; start < any.num_nodes; start += kPositions) {
    const int count = std::min(kPositions, any.num_nodes - start);
    score_tile<Units>(task, count, [&](int i) { return any.slots[start + i]; }, scratch,
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

// Scores -> weights in units, not yet divided by their sum; returns its inverse.
template <class Units>
inline float soften(float* scores, int64_t span) {
  Lanes most = all(-INFINITY);
  for (int64_t i = 0; i < span; i += 16) most = max(most, load(scores + i));
  const Lanes shift = all(largest(most));
  Lanes total = all(0.0f);
  for (int64_t i = 0; i < span; i += 16) {
    const Lanes weight = exp(load(scores + i) - shift);
    Units::put(scores, i, weight);
    total = total + weight;
  }
  return 1.0f / sum(total);
}

// The values of a unit's positions, from `first` on; beyond `last`, whose weights are 0, that one's.
template <class Units, class Rows>
inline void join_values(const AttentionTask<Rows>& task, const NodeKeys& seen, int first, int last,
                        float* to) {
  const bf16* rows[Units::kNumbers];
  for (int i = 0; i < Units::kNumbers; ++i) rows[i] = task.value(seen.slot(std::min(first + i, last)));
  Units::join(rows, task.head_dim, to);
}

// Sums of values under the weights, in the order of positions. next: as for attend.
template <class Units, class Rows>
inline void add_values(const AttentionTask<Rows>& task, const AttentionTask<Rows>* next, int base,
                       int64_t span, AttentionScratch& scratch) {
  constexpr int kNumbers = Units::kNumbers;
  const int dim = task.head_dim, queries = task.rows * task.group;
  const bool is_chain = task.seen[0].is_chain();
  // In a tree, a unit that all rows share only a part of is left to each.
  const int end = is_chain ? task.shared_end() : task.shared_end() & -kNumbers;
  float* values = scratch.values.data();
  std::fill_n(scratch.sums.data(), static_cast<int64_t>(queries) * dim, 0.0f);
  for (int start = base; start < end; start += kPositions) {
    const int units = (std::min(kPositions, end - start) + kNumbers - 1) / kNumbers;
    if (start + kPositions < end) task.fetch_values(start + kPositions);
    else if (next) next->fetch_keys(next->base());
    float* to = values;
    for (int i = 0; i < units; ++i, to += dim)
      join_values<Units>(task, task.seen[0], start + kNumbers * i, end - 1, to);
    const float* weights = scratch.scores.data() + (start - base) / kNumbers;
    int d = 0;
    for (; d + 64 <= dim; d += 64)
      multiply_blocks<Units, 4, 1>(weights, span, queries, values + d, dim, units,
                                   scratch.sums.data() + d, dim, true);
    for (; d < dim; d += 32)
      multiply_blocks<Units, 2, 1>(weights, span, queries, values + d, dim, units,
                                   scratch.sums.data() + d, dim, true);
  }
  if (is_chain) return;
  for (int query = 0; query < queries; ++query) {
    const NodeKeys& seen = task.seen[query / task.group];
    float* to = scratch.sums.data() + static_cast<int64_t>(query) * dim;
    for (int first = std::max(seen.first & -kNumbers, end); first <= seen.last; first += kNumbers) {
      join_values<Units>(task, seen, first, seen.last, values);
      const float* weight = scratch.scores.data() + query * span + (first - base) / kNumbers;
      for (int d = 0; d < dim; d += 16)
        store(to + d, Units::add_products(load(to + d), weight, load(values + d)));
    }
  }
}

// next: the task that this thread probably does next, or null.
template <class Units, class Rows>
inline void attend(const AttentionTask<Rows>& task, const AttentionTask<Rows>* next,
                   AttentionScratch& scratch) {
  const int base = task.base(), dim = task.head_dim, queries = task.rows * task.group;
  const int64_t span = ((task.last() - base) | (kPositions - 1)) + 1;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const int64_t width = static_cast<int64_t>(task.group) * dim;
  const auto put_query = [&](int64_t query, int64_t d, Lanes x) {
    Units::put_whole(scratch.queries.data() + query * dim, dim, d, x * all(scale));
  };
  for (int row = 0; row < task.rows; ++row)
    for (int64_t i = 0; i < width; i += 16)
      put_query(row * task.group + i / dim, i % dim, load(task.query + row * task.row_stride + i));
  score<Units>(task, base, span, scratch);
  float inverse_totals[VisibleSlots::kRows * 64];
  for (int i = 0; i < queries; ++i)
    inverse_totals[i] = soften<Units>(scratch.scores.data() + i * span, span);
  add_values<Units>(task, next, base, span, scratch);
  for (int i = 0; i < queries; ++i) {
    const float* from = scratch.sums.data() + static_cast<int64_t>(i) * dim;
    const Lanes norm = all(inverse_totals[i]);
    const int64_t column = task.out_column + static_cast<int64_t>(i % task.group) * dim;
    for (int d = 0; d < dim; d += kGroup)
      task.out->put(task.out_row + i / task.group, column + d,
                    load(from + d) * norm, load(from + d + 16) * norm);
  }
}

}  // namespace glidecape
