// All decoder layers of a Llama-family model in one call, bfloat16 weights and KV, float32 residual.
//
// A layer is eight phases; within one, the threads share out rows, panels of 64 outputs or
// (node, KV head) pairs:
//
//   norm -> qkv -> rotary and KV write -> attention -> output + residual
//   norm -> gate, up and SiLU product  -> down + residual
//
// Every number is formed in an order that depends on neither the other rows nor the threads.
#include "decoder.h"

#include <vector>

#include "attention.h"
#include "matmul_bf16.h"
#include "team.h"

namespace glidecape {
namespace {

using Floats = std::vector<float>;

// The process-wide team: one model's step runs at a time, and idle threads are not free.
Team& team(int threads) {
  static std::unique_ptr<Team> instance;
  static int size = 0;
  if (size != threads) {
    instance.reset(new Team(threads));
    size = threads;
  }
  return *instance;
}

struct Matrix {
  std::vector<bf16> panels;
  Floats bias;
  PackedMatrix packed{};

  template <class Order>
  void pack(const bf16* rows, const float* bias_or_null, int outputs, int inputs, const Order& order) {
    const int64_t padded = (outputs + kPanel - 1) / kPanel * kPanel;
    panels.resize(padded * inputs);
    pack_panels(rows, outputs, inputs, order, panels.data());
    bias.assign(padded, 0.0f);
    if (bias_or_null)
      for (int i = 0; i < outputs; ++i) bias[i] = bias_or_null[order(i)];
    packed = {panels.data(), bias_or_null ? bias.data() : nullptr, outputs, inputs};
  }
};

struct Layer {
  Floats attention_norm, mlp_norm, query_norm, key_norm;
  Matrix qkv, output, gate_up, down;
  int window = 0;
};

void rms_norm_row(const float* x, const float* weight, int dim, float eps, bf16* out) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < dim; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / dim + eps));
  for (int i = 0; i < dim; i += 16)
    store_bf16(out + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale),
                                      _mm512_loadu_ps(weight + i)));
}

// Rotates one head and rounds it to bfloat16, normed first if weight is given.
void rotate_head(const float* head, const float* norm_weight, float eps, const float* cos,
                 const float* sin, int dim, bf16* out) {
  float scale = 1.0f;
  if (norm_weight) {
    float squares = 0.0f;
    for (int i = 0; i < dim; ++i) squares += head[i] * head[i];
    scale = 1.0f / std::sqrt(squares / dim + eps);
  }
  const int half = dim / 2;
  for (int i = 0; i < half; i += 16) {
    __m512 a = _mm512_loadu_ps(head + i), b = _mm512_loadu_ps(head + half + i);
    if (norm_weight) {
      const __m512 s = _mm512_set1_ps(scale);
      a = _mm512_mul_ps(_mm512_mul_ps(a, s), _mm512_loadu_ps(norm_weight + i));
      b = _mm512_mul_ps(_mm512_mul_ps(b, s), _mm512_loadu_ps(norm_weight + half + i));
    }
    const __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_loadu_ps(sin + i);
    store_bf16(out + i, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)));
    store_bf16(out + half + i, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
  }
}

class Decoder {
 public:
  Decoder(const GlidecapeShape& shape, int threads)
      : shape_(shape), threads_(threads), layers_(shape.num_layers) {}

  void set_layer(int index, const GlidecapeLayer& from) {
    Layer& layer = layers_[index];
    const auto& s = shape_;
    const auto as_is = [](int i) { return i; };
    const int heads = s.num_heads + 2 * s.num_kv_heads;
    layer.attention_norm.assign(from.attention_norm, from.attention_norm + s.hidden);
    layer.mlp_norm.assign(from.mlp_norm, from.mlp_norm + s.hidden);
    if (s.qk_norm) {
      layer.query_norm.assign(from.query_norm, from.query_norm + s.head_dim);
      layer.key_norm.assign(from.key_norm, from.key_norm + s.head_dim);
    }
    layer.qkv.pack(from.qkv, from.qkv_bias, heads * s.head_dim, s.hidden, as_is);
    layer.output.pack(from.output, from.output_bias, s.hidden, s.num_heads * s.head_dim, as_is);
    // A panel holds 32 gates and the 32 ups they are multiplied with.
    const int inner = s.inner;
    layer.gate_up.pack(from.gate_up, from.gate_up_bias, 2 * inner, s.hidden, [inner](int i) {
      const int pair = i / kPanel * 32 + i % 32;
      return i % kPanel < 32 ? pair : inner + pair;
    });
    layer.down.pack(from.down, from.down_bias, s.hidden, inner, as_is);
    layer.window = from.window;
  }

  void run(const GlidecapeStep& step, const GlidecapeCache* caches, float* x) {
    prepare(step);
    const int phases = 8 * shape_.num_layers;
    team(threads_).run([&](int thread) {
      for (int i = 0; i < shape_.num_layers; ++i)
        run_layer(layers_[i], step, {caches[i].keys, caches[i].values}, x, 8 * i, thread);
    }, phases);
  }

 private:
  static constexpr int kRowBlock = 48;  // rows a panel is multiplied with before the next chunk

  // Sequence of each row, slots of its visible positions, and buffers for the step.
  void prepare(const GlidecapeStep& step) {
    const auto& s = shape_;
    const int64_t rows = step.num_rows;
    normed_.resize(rows * s.hidden);
    qkv_.resize(rows * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim);
    query_.resize(rows * s.num_heads * s.head_dim);
    attended_.resize(rows * s.num_heads * s.head_dim);
    inner_.resize(rows * s.inner);
    row_sequence_.resize(rows);
    row_node_.resize(rows);
    int row = 0, longest = 0;
    for (int i = 0; i < step.num_sequences; ++i) {
      for (int node = 0; node < step.node_counts[i]; ++node, ++row) {
        row_sequence_[row] = i;
        row_node_[row] = node;
        longest = std::max<int>(longest, step.positions[row] + 1);
      }
    }
    const int group = s.num_heads / s.num_kv_heads;
    scratch_.resize(threads_);
    for (auto& scratch : scratch_) {
      scratch.slots.resize(longest);
      scratch.scores.resize(static_cast<int64_t>(group) * (longest + 32));
    }
  }

  void run_layer(const Layer& layer, const GlidecapeStep& step, const CacheView& cache, float* x,
                 int phase, int thread) {
    const auto& s = shape_;
    Team& threads = team(threads_);
    const int rows = step.num_rows;
    const auto norm = [&](const Floats& weight) {
      threads.for_each(phase++, rows, [&](int row) {
        rms_norm_row(x + static_cast<int64_t>(row) * s.hidden, weight.data(), s.hidden, s.eps,
                     normed_.data() + static_cast<int64_t>(row) * s.hidden);
      });
    };
    norm(layer.attention_norm);
    const int qkv_width = layer.qkv.packed.outputs;
    multiply(threads, phase++, layer.qkv.packed, normed_.data(), rows,
             [&](int row, int first, int count, const float* sums) {
               float* to = qkv_.data() + static_cast<int64_t>(row) * qkv_width + first;
               for (int i = 0; i < count; ++i) to[i] = sums[i];
             });
    threads.for_each(phase++, rows, [&](int row) { rotate_and_write(layer, step, cache, row); });
    threads.for_each(phase++, rows * s.num_kv_heads, [&](int task) {
      attend_node(layer, step, cache, task / s.num_kv_heads, task % s.num_kv_heads,
                  scratch_[thread]);
    });
    const auto add_to_residual = [&](int row, int first, int count, const float* sums) {
      float* to = x + static_cast<int64_t>(row) * s.hidden + first;
      for (int i = 0; i < count; ++i) to[i] += sums[i];
    };
    multiply(threads, phase++, layer.output.packed, attended_.data(), rows, add_to_residual);
    norm(layer.mlp_norm);
    multiply(threads, phase++, layer.gate_up.packed, normed_.data(), rows,
             [&](int row, int first, int, const float* sums) {
               silu_product(sums, inner_.data() + static_cast<int64_t>(row) * s.inner + first / 2);
             });
    multiply(threads, phase++, layer.down.packed, inner_.data(), rows, add_to_residual);
  }

  // use(row, first output, number of outputs, sums with the bias added)
  template <class Use>
  static void multiply(Team& threads, int phase, const PackedMatrix& w, const bf16* x, int rows,
                       const Use& use) {
    const int row_blocks = (rows + kRowBlock - 1) / kRowBlock;
    threads.for_each(phase, w.num_panels() * row_blocks, [&](int task) {
      const int panel = task / row_blocks, begin = task % row_blocks * kRowBlock;
      const int first = panel * kPanel, count = std::min(kPanel, w.outputs - first);
      const int some = std::min(kRowBlock, rows - begin);
      multiply_panel(x + static_cast<int64_t>(begin) * w.inputs, some, w, panel,
                     [&](int row, float* sums) {
                       if (w.bias)
                         for (int i = 0; i < kPanel; ++i) sums[i] += w.bias[first + i];
                       use(begin + row, first, count, sums);
                     });
    });
  }

  static void silu_product(const float* sums, bf16* out) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < 32; i += 16) {
      const __m512 gate = _mm512_loadu_ps(sums + i), up = _mm512_loadu_ps(sums + 32 + i);
      const __m512 decay = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), gate));
      store_bf16(out + i, _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(one, decay)), up));
    }
  }

  void rotate_and_write(const Layer& layer, const GlidecapeStep& step, const CacheView& cache, int row) {
    const auto& s = shape_;
    const int dim = s.head_dim;
    const float* from = qkv_.data() + static_cast<int64_t>(row) * layer.qkv.packed.outputs;
    const float *cos = step.cos + static_cast<int64_t>(row) * dim;
    const float *sin = step.sin + static_cast<int64_t>(row) * dim;
    bf16* query = query_.data() + static_cast<int64_t>(row) * s.num_heads * dim;
    const float* query_norm = s.qk_norm ? layer.query_norm.data() : nullptr;
    const float* key_norm = s.qk_norm ? layer.key_norm.data() : nullptr;
    for (int head = 0; head < s.num_heads; ++head, from += dim)
      rotate_head(from, query_norm, s.eps, cos, sin, dim, query + head * dim);
    const int64_t at = step.slots[row] * s.num_kv_heads * dim;
    for (int head = 0; head < s.num_kv_heads; ++head, from += dim)
      rotate_head(from, key_norm, s.eps, cos, sin, dim, cache.keys + at + head * dim);
    for (int i = 0; i < s.num_kv_heads * dim; i += 16)
      store_bf16(cache.values + at + i, _mm512_loadu_ps(from + i));
  }

  struct Scratch {
    std::vector<int64_t> slots;
    Floats scores;
  };

  void attend_node(const Layer& layer, const GlidecapeStep& step, const CacheView& cache, int row,
                   int kv_head, Scratch& scratch) const {
    const auto& s = shape_;
    const int position = static_cast<int>(step.positions[row]);
    const int first = layer.window ? std::max(0, position - layer.window + 1) : 0;
    find_slots(step, row, first, scratch.slots.data());
    const int group = s.num_heads / s.num_kv_heads;
    const int64_t at = (static_cast<int64_t>(row) * s.num_heads + kv_head * group) * s.head_dim;
    attend(query_.data() + at, group, s.head_dim, cache, s.num_kv_heads, kv_head,
           {scratch.slots.data(), first, position}, 1.0f / std::sqrt(static_cast<float>(s.head_dim)),
           scratch.scores.data(), const_cast<bf16*>(attended_.data()) + at);
  }

  // Slots of the positions a node sees, from `first` up to its own.
  void find_slots(const GlidecapeStep& step, int row, int first, int64_t* slots) const {
    const int sequence = row_sequence_[row], node = row_node_[row];
    const int context = static_cast<int>(step.context_lens[sequence]);
    const int64_t* table = step.block_tables + static_cast<int64_t>(sequence) * step.max_blocks;
    int64_t* to = slots;
    for (int position = first; position < context; ++position)
      *to++ = table[position / step.block_size] * step.block_size + position % step.block_size;
    for (int i = 0; i <= node; ++i) {
      const int other = row - node + i;
      const bool seen = !step.ancestors || step.ancestors[static_cast<int64_t>(row) * step.max_nodes + i];
      if (seen && step.positions[other] >= first) *to++ = step.slots[other];
    }
  }

  const GlidecapeShape shape_;
  const int threads_;
  std::vector<Layer> layers_;
  std::vector<bf16> normed_, query_, attended_, inner_;
  Floats qkv_;
  std::vector<int> row_sequence_, row_node_;
  std::vector<Scratch> scratch_;
};

struct Linear {
  Matrix matrix;
  int threads;
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_decoder_create(const GlidecapeShape* shape, int32_t threads) {
  return new Decoder(*shape, threads);
}

void glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer) {
  static_cast<Decoder*>(decoder)->set_layer(index, *layer);
}

void glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           float* x) {
  static_cast<Decoder*>(decoder)->run(*step, caches, x);
}

void glidecape_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

void* glidecape_linear_create(const uint16_t* weight, int32_t outputs, int32_t inputs,
                              int32_t threads) {
  auto* linear = new Linear{{}, threads};
  linear->matrix.pack(weight, nullptr, outputs, inputs, [](int i) { return i; });
  return linear;
}

void glidecape_linear_run(void* linear, const uint16_t* x, int32_t rows, float* y) {
  const auto& self = *static_cast<Linear*>(linear);
  const PackedMatrix& w = self.matrix.packed;
  team(self.threads).run([&](int) {
    team(self.threads).for_each(0, w.num_panels(), [&](int panel) {
      const int first = panel * kPanel, count = std::min(kPanel, w.outputs - first);
      multiply_panel(x, rows, w, panel, [&](int row, const float* sums) {
        std::memcpy(y + static_cast<int64_t>(row) * w.outputs + first, sums, count * sizeof(float));
      });
    });
  }, 1);
}

void glidecape_linear_destroy(void* linear) { delete static_cast<Linear*>(linear); }
