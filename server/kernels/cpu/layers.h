// Decoder layers over the paged KV: bfloat16 KV, float32 residual stream, weights of any format.
//
// In a layer the threads share out, five times, panels of 64 outputs or (block of nodes, KV head) pairs.
// In between, rows are normed or rotated by the thread that comes last, or, if there are many, shared out
// too (Team::for_each_then):
//
//   qkv, then rotary and KV write -> attention -> output + residual, then norm
//   gate, up and SiLU product     -> down + residual, then the next layer's norm
//
// Every number is formed in an order that depends on neither the other rows nor the threads.
#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "decoder.h"
#include "format.h"
#include "rotary.h"
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

// Attention over one layer's cache: of the queries from column `query` of each row on; the result goes to
// the columns from `column` on.
struct Glance {
  CacheView cache;
  int window;
  int64_t query, column;
};

// With the products that are fastest on this machine.
template <class Rows>
inline void attend_best(const AttentionTask<Rows>& task, const AttentionTask<Rows>* next,
                        AttentionScratch& scratch) {
#ifdef GLIDECAPE_AVX512
  if (!prefers_multiply_add()) return attend<PairUnits>(task, next, scratch);
#endif
  attend<FloatUnits>(task, next, scratch);
}

// One thread's share of attention over some layers' caches. Rows of queries are `stride` apart.
template <class Rows>
inline void attend_blocks(Team& team, int phase, const GlidecapeStep& step,
                          const VisibleSlots& visible, const Heads& heads, const Glance* glances,
                          int num_glances, const float* queries, int64_t stride, Rows& out,
                          AttentionScratch& scratch) {
  const int group = heads.num_heads / heads.num_kv_heads;
  const int num_blocks = static_cast<int>(visible.blocks().size());
  const int tasks_each = num_blocks * heads.num_kv_heads;
  const auto task_of = [&](int index, NodeKeys* seen) {
    const Glance& glance = glances[index / tasks_each];
    const RowBlock& block = visible.blocks()[index % tasks_each / heads.num_kv_heads];
    const int64_t kv_head = index % heads.num_kv_heads, first = kv_head * group * heads.head_dim;
    for (int i = 0; i < block.count; ++i)
      seen[i] = visible.keys(step, block.first + i, glance.window);
    return AttentionTask<Rows>{
        glance.cache, static_cast<int64_t>(heads.num_kv_heads) * heads.head_dim,
        kv_head * heads.head_dim, group, heads.head_dim, stride,
        queries + block.first * stride + glance.query + first,
        &out, block.first, glance.column + first, seen, block.count};
  };
  team.for_each(phase, num_glances * tasks_each, [&](int index) {
    NodeKeys seen[VisibleSlots::kRows], seen_next[VisibleSlots::kRows];
    const AttentionTask<Rows> task = task_of(index, seen);
    const int after = index + team.size();
    if (after >= num_glances * tasks_each) return attend_best<Rows>(task, nullptr, scratch);
    const AttentionTask<Rows> next = task_of(after, seen_next);
    attend_best(task, &next, scratch);
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

  LayerRunner(const GlidecapeShape& shape, const GlidecapeRotary& rotary, int threads)
      : shape_(shape), rotary_(rotary, shape.head_dim), scratch_(threads) {}

  // To be called before the layers of a step, by one thread. x: [rows][hidden], the residual stream.
  void prepare(const GlidecapeStep& step, float* x) {
    const auto& s = shape_;
    const int64_t rows = step.num_rows;
    x_ = x;
    normed_.resize(rows, s.hidden);
    qkv_.resize(rows * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim);
    query_.resize(rows * s.num_heads * s.head_dim);
    attended_.resize(rows, s.num_heads * s.head_dim);
    inner_.resize(rows, s.inner);
    rotary_.find(step.positions, rows);
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
  // thread. Rows come normed. after: the matrix that is read next; then: what each row goes on with.

  template <class Then>
  void run_layer(Team& team, int phase, const Layer& layer, const Matrix* after,
                 const GlidecapeStep& step, const CacheView& cache, int thread, const Then& then) {
    run_self_attention(team, phase, layer, &layer.gate_up, step, cache, thread,
                       [&](int row) { norm(layer.mlp_norm, row); });
    run_mlp(team, phase + kPhasesOfSelfAttention, layer, after, step.num_rows, then);
  }

  template <class Then>
  void run_self_attention(Team& team, int phase, const Layer& layer, const Matrix* after,
                          const GlidecapeStep& step, const CacheView& cache, int thread,
                          const Then& then) {
    const auto& s = shape_;
    write_kv(team, phase, layer, &layer.output, step, cache);
    const int64_t width = static_cast<int64_t>(s.num_heads) * s.head_dim;
    const Glance glance{cache, layer.window, 0, 0};
    attend_blocks(team, phase + 2, step, visible_, {s.num_heads, s.num_kv_heads, s.head_dim},
                  &glance, 1, query_.data(), width, attended_, scratch_[thread]);
    add_product(team, phase + 3, layer.output, after, attended_, step.num_rows, then);
  }

  // qkv, rotary and KV write: 2 phases.
  void write_kv(Team& team, int phase, const Layer& layer, const Matrix* after,
                const GlidecapeStep& step, const CacheView& cache) {
    multiply(team, phase, layer.qkv, after, normed_, step.num_rows,
             [&](int row, int first, int count, const float* sums) {
               std::copy_n(sums, count, qkv_.data() + static_cast<int64_t>(row) * layer.qkv.outputs + first);
             },
             [&](int row) { rotate_and_write(layer, step, cache, row); });
  }

  template <class Then>
  void run_mlp(Team& team, int phase, const Layer& layer, const Matrix* after, int rows,
               const Then& then) {
    multiply(team, phase, layer.gate_up, &layer.down, normed_, rows,
             [&](int row, int first, int, const float* sums) {
               silu_product(sums, inner_, row, first / 2);
             });
    add_product(team, phase + 1, layer.down, after, inner_, rows, then);
  }

  // x += from w^T: 2 phases.
  template <class Then>
  void add_product(Team& team, int phase, const Matrix& w, const Matrix* after, const Rows& from,
                   int rows, const Then& then) {
    multiply(team, phase, w, after, from, rows,
             [&](int row, int first, int count, const float* sums) {
               float* to = x(row) + first;
               for (int i = 0; i < count; ++i) to[i] += sums[i];
             },
             then);
  }

  // Of one row, by one thread; the result is in normed().
  void norm(const std::vector<float>& weight, int row) {
    rms_norm_row(x(row), weight.data(), shape_.hidden, shape_.eps, normed_, row);
  }

  float* x(int64_t row) { return x_ + row * shape_.hidden; }
  Rows& normed() { return normed_; }
  AttentionScratch& scratch(int thread) { return scratch_[thread]; }

 private:
  void rotate_and_write(const Layer& layer, const GlidecapeStep& step, const CacheView& cache, int row) {
    const auto& s = shape_;
    const int dim = s.head_dim;
    const float* from = qkv_.data() + static_cast<int64_t>(row) * layer.qkv.outputs;
    const float *cos = rotary_.cos(row), *sin = rotary_.sin(row);
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
  Rotary rotary_;
  float* x_ = nullptr;
  Rows normed_, attended_, inner_;
  std::vector<float> qkv_, query_;
  VisibleSlots visible_;
  std::vector<AttentionScratch> scratch_;
};

}  // namespace glidecape
