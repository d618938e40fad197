// Decoder layers over the paged KV: bfloat16 KV, float32 residual stream, weights of any format.
//
// In a layer the threads share out, five times, panels of 64 outputs or parts of them, or (block of nodes,
// KV head) pairs. In between, rows are normed or rotated by the thread that comes last, or, if there are
// many, shared out too (Worker::for_each_then):
//
//   qkv, then rotary and KV write -> attention -> output + residual, then norm
//   gate, up and SiLU product     -> down + residual, then the next layer's norm
//
// Every number is formed in an order that depends on neither the other rows nor the threads.
#pragma once

#include <algorithm>
#include <vector>

#include "attention_blocks.h"
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
  layer.gate_up.whole_panels = true;
  layer.down = Format::pack(arena, from.down, from.down_bias, s.hidden, inner, as_is);
  layer.window = from.window;
  return layer;
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
    for (AttentionScratch& scratch : scratch_) fit(scratch, heads, step);
  }

  // All of the following are called by every thread of the team, with the same arguments. Rows come
  // normed. after: the matrix that is read next; then: what each row goes on with.

  template <class Then>
  void run_layer(Team::Worker& worker, int phase, const Layer& layer, const Matrix* after,
                 const GlidecapeStep& step, const CacheView<bf16>& cache, const Then& then) {
    run_self_attention(worker, phase, layer, &layer.gate_up, step, cache,
                       [&](int row) { norm(layer.mlp_norm, row); });
    run_mlp(worker, phase + kPhasesOfSelfAttention, layer, after, step.num_rows, then);
  }

  template <class Then>
  void run_self_attention(Team::Worker& worker, int phase, const Layer& layer, const Matrix* after,
                          const GlidecapeStep& step, const CacheView<bf16>& cache, const Then& then) {
    const auto& s = shape_;
    write_kv(worker, phase, layer, &layer.output, step, cache);
    const int64_t width = static_cast<int64_t>(s.num_heads) * s.head_dim;
    const Glance<bf16> glance{cache, {layer.window}, plain_rules(s.head_dim), 0, 0};
    attend_blocks<bf16>(worker, phase + 2, step, visible_, {s.num_heads, s.num_kv_heads, s.head_dim},
                        &glance, 1, QueryView<float>{query_.data(), width, s.head_dim}, attended_,
                        scratch(worker.thread()));
    add_product(worker, phase + 3, layer.output, after, attended_, step.num_rows, then);
  }

  // qkv, rotary and KV write: 2 phases.
  void write_kv(Team::Worker& worker, int phase, const Layer& layer, const Matrix* after,
                const GlidecapeStep& step, const CacheView<bf16>& cache) {
    multiply(worker, phase, layer.qkv, after, normed_, step.num_rows,
             [&](int row, int first, int count, const float* sums) {
               std::copy_n(sums, count, qkv_.data() + static_cast<int64_t>(row) * layer.qkv.outputs + first);
             },
             [&](int row) { rotate_and_write(layer, step, cache, row); });
  }

  template <class Then>
  void run_mlp(Team::Worker& worker, int phase, const Layer& layer, const Matrix* after, int rows,
               const Then& then) {
    multiply(worker, phase, layer.gate_up, &layer.down, normed_, rows,
             [&](int row, int first, int, const float* sums) {
               silu_product(sums, inner_, row, first / 2);
             });
    add_product(worker, phase + 1, layer.down, after, inner_, rows, then);
  }

  // x += from w^T: 2 phases.
  template <class Then>
  void add_product(Team::Worker& worker, int phase, const Matrix& w, const Matrix* after, const Rows& from,
                   int rows, const Then& then) {
    multiply(worker, phase, w, after, from, rows,
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
  void rotate_and_write(const Layer& layer, const GlidecapeStep& step, const CacheView<bf16>& cache, int row) {
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
