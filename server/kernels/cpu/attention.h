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
// whatever else is in the block. Positions a row does not see have weight 0. A head whose size is no
// multiple of 32 is computed as one that has zeros behind it.
#pragma once

#include <algorithm>
#include <cmath>

#include "activations.h"
#include "attention_task.h"
#include "units.h"
#include "vector_math.h"

namespace glidecape {

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

// The keys at slot(0 … count - 1) of a tile, turned over.
template <class Units, class Number, class Query, class Rows, class Slot>
inline void turn_tile(const AttentionTask<Number, Query, Rows>& task, int count, const Slot& slot, float* to) {
  constexpr int kUnits = 32 / Units::kNumbers;
  for (int first = 0; first < kPositions; first += 16) {
    const Number* keys[16];
    for (int i = 0; i < 16; ++i) keys[i] = task.key(slot(std::min(first + i, count - 1)));
    float* turned = to + first;
    int d = 0;
    for (; d + 32 <= task.head_dim; d += 32, turned += kUnits * kPositions) {
      Units::turn(keys, turned, kPositions);
      for (const Number*& key : keys) key += 32;
    }
    if (d == task.head_dim) continue;
    HeadEnds<Number, 16> ends;
    ends.take(keys, task.head_dim - d);
    Units::turn(keys, turned, kPositions);
  }
}

// Scores of all queries against the keys at slot(0 … count - 1) of a tile; to: [queries][to_stride].
template <class Units, class Number, class Query, class Rows, class Slot>
inline void score_tile(const AttentionTask<Number, Query, Rows>& task, int count, const Slot& slot,
                       AttentionScratch& scratch, float* to, int64_t to_stride) {
  turn_tile<Units>(task, count, slot, scratch.keys.data());
  multiply_blocks<Units, 4, Units::kWholeParts>(
      scratch.queries.data(), task.width(), task.queries(), scratch.keys.data(), kPositions,
      task.width() / Units::kNumbers, to, to_stride, false);
  if (task.rules.softcap == 0.0f) return;
  const Lanes cap = all(task.rules.softcap), inverse = all(1.0f / task.rules.softcap);
  for (int query = 0; query < task.queries(); ++query, to += to_stride)
    for (int i = 0; i < kPositions; i += 16) store(to + i, cap * tanh(load(to + i) * inverse));
}

// Scores by position: against the tokens all rows share, then, in a tree, along each row's path.
template <class Units, class Number, class Query, class Rows>
inline void score(const AttentionTask<Number, Query, Rows>& task, int base, int64_t span, AttentionScratch& scratch) {
  const NodeKeys& any = task.seen[0];
  const int end = task.shared_end();
  for (int start = base; start < end; start += kPositions) {
    if (start + kPositions < end) task.fetch_keys(start + kPositions);
    else task.fetch_values(base);
    score_tile<Units>(task, std::min(kPositions, end - start), [&](int i) { return any.slot(start + i); },
                      scratch, scratch.scores.data() + start - base, span);
  }
  for (int query = 0; query < task.queries(); ++query) {
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
    for (int query = 0; query < task.queries(); ++query) {
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

// Scores -> weights in units, not yet divided by their sum; returns its inverse. sink: null for none.
template <class Units>
inline float soften(float* scores, int64_t span, const float* sink) {
  Lanes most = all(sink ? *sink : -INFINITY);
  for (int64_t i = 0; i < span; i += 16) most = max(most, load(scores + i));
  const Lanes shift = all(largest(most));
  Lanes total = all(0.0f);
  for (int64_t i = 0; i < span; i += 16) {
    const Lanes weight = exp(load(scores + i) - shift);
    Units::put(scores, i, weight);
    total = total + weight;
  }
  if (!sink) return 1.0f / sum(total);
  return 1.0f / (sum(total) + largest(exp(all(*sink) - shift)));
}

// The values of a unit's positions, from `first` on; beyond `last`, whose weights are 0, that one's.
template <class Units, class Number, class Query, class Rows>
inline void join_values(const AttentionTask<Number, Query, Rows>& task, const NodeKeys& seen, int first,
                        int last, float* to) {
  const Number* rows[Units::kNumbers];
  for (int i = 0; i < Units::kNumbers; ++i) rows[i] = task.value(seen.slot(std::min(first + i, last)));
  const int whole = task.head_dim & ~31;
  Units::join(rows, whole, to);
  if (whole == task.head_dim) return;
  HeadEnds<Number, Units::kNumbers> ends;
  for (const Number*& row : rows) row += whole;
  ends.take(rows, task.head_dim - whole);
  Units::join(rows, 32, to + whole);
}

// Sums of values under the weights, in the order of positions. next: as for attend.
template <class Units, class Number, class Query, class Rows>
inline void add_values(const AttentionTask<Number, Query, Rows>& task,
                       const AttentionTask<Number, Query, Rows>* next, int base, int64_t span,
                       AttentionScratch& scratch) {
  constexpr int kNumbers = Units::kNumbers;
  const int dim = task.width(), queries = task.queries();
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

// Scaled, in units, with zeros behind each head.
template <class Units, class Number, class Query, class Rows>
inline void take_queries(const AttentionTask<Number, Query, Rows>& task, float* to) {
  const int width = task.width(), whole = task.head_dim & ~15;
  const Lanes scale = all(task.rules.scale);
  for (int i = 0; i < task.queries(); ++i, to += width) {
    const Query* from = task.query.first + i / task.group * task.query.row_stride +
                        i % task.group * task.query.head_stride;
    for (int d = 0; d < whole; d += 16) Units::put_whole(to, width, d, load(from + d) * scale);
    if (whole == width) continue;
    Query end[32] = {};
    std::copy(from + whole, from + task.head_dim, end);
    for (int d = whole; d < width; d += 16)
      Units::put_whole(to, width, d, load(end + (d - whole)) * scale);
  }
}

// next: the task that this thread probably does next, or null.
template <class Units, class Number, class Query, class Rows>
inline void attend(const AttentionTask<Number, Query, Rows>& task,
                   const AttentionTask<Number, Query, Rows>* next, AttentionScratch& scratch) {
  const int base = task.base(), width = task.width(), queries = task.queries();
  const int64_t span = ((task.last() - base) | (kPositions - 1)) + 1;
  take_queries<Units>(task, scratch.queries.data());
  score<Units>(task, base, span, scratch);
  for (int i = 0; i < queries; ++i) {
    const float* sink = task.rules.sinks ? task.rules.sinks + i % task.group : nullptr;
    scratch.inverses[i] = soften<Units>(scratch.scores.data() + i * span, span, sink);
  }
  add_values<Units>(task, next, base, span, scratch);
  for (int i = 0; i < queries; ++i) {
    const float* from = scratch.sums.data() + static_cast<int64_t>(i) * width;
    const Lanes norm = all(scratch.inverses[i]);
    const int64_t column = task.out_column + static_cast<int64_t>(i % task.group) * task.head_dim;
    for (int d = 0; d < width; d += kGroup)
      task.out->put(task.out_row + i / task.group, column + d,
                    load(from + d) * norm, load(from + d + 16) * norm);
  }
}

}  // namespace glidecape
