// Decoder layers over the paged KV: bfloat16 KV, float32 residual stream, weights of any format.
//
// A layer is eight phases; within one, the threads share out rows, panels of 64 outputs or
// (block of nodes, KV head) pairs:
//
//   norm -> qkv -> rotary and KV write -> attention -> output + residual
//   norm -> gate, up and SiLU product  -> down + residual
//
// Every number is formed in an order that depends on neither the other rows nor the threads.
#pragma once

#include <vector>

#include "attention.h"
#include "decoder.h"
#include "format.h"
#include "row_math.h"

namespace glidecape {

template <class Format>
struct Layer {
  std::vector<float> attention_norm, mlp_norm, query_norm, key_norm;
  typename Format::Matrix qkv, output, gate_up, down;
  int window = 0;
};

template <class Format>
inline Layer<Format> pack_layer(Arena& arena, const GlidecapeShape& s, const GlidecapeLayer& from) {
  const auto as_is = [](int i) { return i; };
  Layer<Format> layer;
  layer.attention_norm.assign(from.attention_norm, from.attention_norm + s.hidden);
  layer.mlp_norm.assign(from.mlp_norm, from.mlp_norm + s.hidden);
  if (s.qk_norm) {
    layer.query_norm.assign(from.query_norm, from.query_norm + s.head_dim);
    layer.key_norm.assign(from.key_norm, from.key_norm + s.head_dim);
  }
  const int heads = s.num_heads + 2 * s.num_kv_heads;
  layer.qkv = Format::pack(arena, from.qkv, from.qkv_bias, heads * s.head_dim, s.hidden, as_is);
  layer.output = Format::pack(arena, from.output, from.output_bias, s.hidden, s.num_heads * s.head_dim, as_is);
  // A panel holds 32 gates and the 32 ups they are multiplied with.
  const int inner = s.inner;
  layer.gate_up = Format::pack(arena, from.gate_up, from.gate_up_bias, 2 * inner, s.hidden, [inner](int i) {
    const int pair = i / kPanel * 32 + i % 32;
    return i % kPanel < 32 ? pair : inner + pair;
  });
  layer.down = Format::pack(arena, from.down, from.down_bias, s.hidden, inner, as_is);
  layer.window = from.window;
  return layer;
}

// Heads of an attention over a cache.
struct Heads {
  int num_heads, num_kv_heads, head_dim;
};

// One thread's share of attention over a cache. Rows of query are query_stride apart; the result goes
// to the columns of out from `column` on.
template <class Rows>
inline void attend_blocks(Team& team, int phase, const GlidecapeStep& step,
                          const VisibleSlots& visible, const Heads& heads, const CacheView& cache,
                          int window, const float* query, int64_t query_stride, Rows& out,
                          int64_t column, AttentionScratch& scratch) {
  const int group = heads.num_heads / heads.num_kv_heads;
  const int num_blocks = static_cast<int>(visible.blocks().size());
  team.for_each(phase, num_blocks * heads.num_kv_heads, [&](int task) {
    const RowBlock& block = visible.blocks()[task / heads.num_kv_heads];
    const int64_t kv_head = task % heads.num_kv_heads, first = kv_head * group * heads.head_dim;
    NodeKeys seen[VisibleSlots::kRows];
    for (int i = 0; i < block.count; ++i) seen[i] = visible.keys(step, block.first + i, window);
    const AttentionTask<Rows> attention{
        cache, static_cast<int64_t>(heads.num_kv_heads) * heads.head_dim, kv_head * heads.head_dim,
        group, heads.head_dim, query_stride, query + block.first * query_stride + first,
        &out, block.first, column + first, seen, block.count};
    attend(attention, scratch);
  });
}

// The buffers of a step, and what a layer does with them.
template <class Format>
class LayerRunner {
 public:
  using Matrix = typename Format::Matrix;
  using Rows = typename Format::Rows;
  using Layer = glidecape::Layer<Format>;

  static constexpr int kPhases = 8;
  static constexpr int kPhasesOfSelfAttention = 5;

  LayerRunner(const GlidecapeShape& shape, int threads) : shape_(shape), scratch_(threads) {}

  // To be called before the layers of a step, by one thread.
  void prepare(const GlidecapeStep& step) {
    const auto& s = shape_;
    const int64_t rows = step.num_rows;
    normed_.resize(rows, s.hidden);
    qkv_.resize(rows * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim);
    query_.resize(rows * s.num_heads * s.head_dim);
    attended_.resize(rows, s.num_heads * s.head_dim);
    inner_.resize(rows, s.inner);
    visible_.find(step);
    fit_scratch({s.num_heads, s.num_kv_heads, s.head_dim}, step);
  }

  // Room for attention with such heads over all that a sequence has.
  void fit_scratch(const Heads& heads, const GlidecapeStep& step) {
    int64_t longest = 0;
    for (int i = 0; i < step.num_sequences; ++i)
      longest = std::max(longest, step.context_lens[i] + step.node_counts[i]);
    const int64_t queries = static_cast<int64_t>(VisibleSlots::kRows) * heads.num_heads / heads.num_kv_heads;
    for (AttentionScratch& scratch : scratch_) scratch.fit(queries, heads.head_dim, longest);
  }

  // All of the following are called by every thread of the team, with the same arguments but for
  // thread. x: [rows][hidden], the residual stream.

  void run_layer(Team& team, int phase, const Layer& layer, const Matrix* after,
                 const GlidecapeStep& step, const CacheView& cache, float* x, int thread) {
    run_self_attention(team, phase, layer, &layer.gate_up, step, cache, x, thread);
    run_mlp(team, phase + kPhasesOfSelfAttention, layer, after, step.num_rows, x);
  }

  // after: the matrix that is read next.
  void run_self_attention(Team& team, int phase, const Layer& layer, const Matrix* after,
                          const GlidecapeStep& step, const CacheView& cache, float* x, int thread) {
    const auto& s = shape_;
    write_kv(team, phase, layer, &layer.output, step, cache, x);
    const int64_t width = static_cast<int64_t>(s.num_heads) * s.head_dim;
    attend_blocks(team, phase + 3, step, visible_, {s.num_heads, s.num_kv_heads, s.head_dim}, cache,
                  layer.window, query_.data(), width, attended_, 0, scratch_[thread]);
    add_product(team, phase + 4, layer.output, after, attended_, step.num_rows, x);
  }

  // Norm, qkv, rotary and KV write: 3 phases.
  void write_kv(Team& team, int phase, const Layer& layer, const Matrix* after,
                const GlidecapeStep& step, const CacheView& cache, const float* x) {
    norm(team, phase, layer.attention_norm, step.num_rows, x);
    multiply(team, phase + 1, layer.qkv, after, normed_, step.num_rows,
             [&](int row, int first, int count, const float* sums) {
               std::copy_n(sums, count, qkv_.data() + static_cast<int64_t>(row) * layer.qkv.outputs + first);
             });
    team.for_each(phase + 2, step.num_rows, [&](int row) { rotate_and_write(layer, step, cache, row); });
  }

  void run_mlp(Team& team, int phase, const Layer& layer, const Matrix* after, int rows, float* x) {
    norm(team, phase, layer.mlp_norm, rows, x);
    multiply(team, phase + 1, layer.gate_up, &layer.down, normed_, rows,
             [&](int row, int first, int, const float* sums) {
               silu_product(sums, inner_, row, first / 2);
             });
    add_product(team, phase + 2, layer.down, after, inner_, rows, x);
  }

  // One phase; the result is in normed().
  void norm(Team& team, int phase, const std::vector<float>& weight, int rows, const float* x) {
    const int hidden = shape_.hidden;
    team.for_each(phase, rows, [&](int row) {
      const int64_t at = static_cast<int64_t>(row) * hidden;
      rms_norm_row(x + at, weight.data(), hidden, shape_.eps, normed_, row);
    });
  }

  // One phase: x += from w^T.
  static void add_product(Team& team, int phase, const Matrix& w, const Matrix* after,
                          const Rows& from, int rows, float* x) {
    multiply(team, phase, w, after, from, rows, [&](int row, int first, int count, const float* sums) {
      float* to = x + static_cast<int64_t>(row) * w.outputs + first;
      for (int i = 0; i < count; ++i) to[i] += sums[i];
    });
  }

  Rows& normed() { return normed_; }
  AttentionScratch& scratch(int thread) { return scratch_[thread]; }

 private:
  void rotate_and_write(const Layer& layer, const GlidecapeStep& step, const CacheView& cache, int row) {
    const auto& s = shape_;
    const int dim = s.head_dim;
    const float* from = qkv_.data() + static_cast<int64_t>(row) * layer.qkv.outputs;
    const float *cos = step.cos + static_cast<int64_t>(row) * dim;
    const float *sin = step.sin + static_cast<int64_t>(row) * dim;
    float* query = query_.data() + static_cast<int64_t>(row) * s.num_heads * dim;
    const float* query_norm = s.qk_norm ? layer.query_norm.data() : nullptr;
    const float* key_norm = s.qk_norm ? layer.key_norm.data() : nullptr;
    for (int head = 0; head < s.num_heads; ++head, from += dim)
      rotate_head(from, query_norm, s.eps, cos, sin, dim, query + head * dim);
    const int64_t at = step.slots[row] * s.num_kv_heads * dim;
    for (int head = 0; head < s.num_kv_heads; ++head, from += dim)
      rotate_head(from, key_norm, s.eps, cos, sin, dim, cache.keys + at + head * dim);
    for (int i = 0; i < s.num_kv_heads * dim; i += 16)
      store(cache.values + at + i, load(from + i));
  }

  const GlidecapeShape shape_;
  Rows normed_, attended_, inner_;
  std::vector<float> qkv_, query_;
  VisibleSlots visible_;
  std::vector<AttentionScratch> scratch_;
};

}  // namespace glidecape
