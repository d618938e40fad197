// What one task of attention (attention.h) is about: some rows' query heads of one KV head, what they see,
// where it lies; and the buffers that it is computed in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "visible.h"

namespace glidecape {

constexpr int kPositions = 64;  // in a tile

template <class Number>
struct CacheView {
  Number* keys;    // [num_slots][kv_heads][head_dim]
  Number* values;  // the same
};

// What a layer makes of its scores, query x key.
struct ScoreRules {
  float scale;                   // factor on every score
  float softcap = 0.0f;          // scores become softcap tanh(score / softcap); 0: they stay
  const float* sinks = nullptr;  // [num_heads]: scores that join a row's softmax and bring no value
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
  std::vector<float> inverses;     // [rows][group], of the weights' sums

  // To be called before the step: inside it, memory that is lacking could not be reported.
  // longest: tokens that a row sees at most.
  // head_dim: a multiple of 32.
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
    grow(inverses, num_queries);
  }
};

// Queries, rotary applied: [rows][heads][head_dim], rows and heads as far apart as strides say.
template <class Number>
struct QueryView {
  const Number* first;
  int64_t row_stride, head_stride;
};

// The query heads of one KV head, for a block of rows.
template <class Number, class Query, class Rows>
struct AttentionTask {
  CacheView<Number> cache;
  int64_t stride;  // between slots, in elements
  int64_t offset;  // of the KV head in a slot
  int group;       // query heads per KV head
  int head_dim;
  ScoreRules rules;  // its sinks are those of the group
  QueryView<Query> query;
  Rows* out;  // row `out_row` and on, the group's heads from column `out_column` on
  int64_t out_row, out_column;
  const NodeKeys* seen;
  int rows;

  int width() const { return (head_dim + 31) & ~31; }  // of a head with the zeros behind it
  int queries() const { return rows * group; }
  const Number* key(int64_t slot) const { return cache.keys + slot * stride + offset; }
  const Number* value(int64_t slot) const { return cache.values + slot * stride + offset; }

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
  void fetch(const Number* from, int start) const {
    constexpr int kLine = 64 / sizeof(Number);
    const int end = std::min(start + kPositions, shared_end());
    for (int position = start; position < end; ++position) {
      const Number* token = from + seen[0].slot(position) * stride + offset;
      for (int d = 0; d < head_dim; d += kLine) __builtin_prefetch(token + d);
    }
  }
};

// The last numbers of heads, with zeros behind them up to 32.
template <class Number, int Heads>
struct HeadEnds {
  alignas(64) Number numbers[Heads][32] = {};

  // heads: each at the first of its last `count` numbers; they point here then.
  void take(const Number** heads, int count) {
    for (int i = 0; i < Heads; ++i) heads[i] = std::copy_n(heads[i], count, numbers[i]) - count;
  }
};

}  // namespace glidecape
