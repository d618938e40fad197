// All decoder layers of a Llama-family model in one call, bfloat16 weights and KV, float32 residual.
//
// A layer is eight phases; within one, the threads share out rows, panels of 64 outputs or
// (block of nodes, KV head) pairs:
//
//   norm -> qkv -> rotary and KV write -> attention -> output + residual
//   norm -> gate, up and SiLU product  -> down + residual
//
// Every number is formed in an order that depends on neither the other rows nor the threads.
#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <vector>

#include "attention.h"
#include "matmul_bf16.h"
#include "row_math.h"
#include "team.h"

namespace glidecape {
namespace {

using Floats = std::vector<float>;

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

class Decoder {
 public:
  Decoder(const GlidecapeShape& shape, int threads)
      : shape_(shape), threads_(std::max(1, threads)), layers_(shape.num_layers) {}

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
    SharedTeam::with(threads_, [&](Team& team) {
      prepare(step);
      const int phases = 8 * shape_.num_layers;
      team.run([&](int thread) {
        for (int i = 0; i < shape_.num_layers; ++i)
          run_layer(team, layers_[i], step, {caches[i].keys, caches[i].values}, x, 8 * i, thread);
      }, phases);
    });
  }

 private:
  static constexpr int kRowBlock = 48;  // rows a panel is multiplied with before the next chunk

  // Visible slots and buffers for the step.
  void prepare(const GlidecapeStep& step) {
    const auto& s = shape_;
    const int64_t rows = step.num_rows;
    normed_.resize(rows * s.hidden);
    qkv_.resize(rows * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim);
    query_.resize(rows * s.num_heads * s.head_dim);
    attended_.resize(rows * s.num_heads * s.head_dim);
    inner_.resize(rows * s.inner);
    visible_.find(step);
    int64_t longest = 0;
    for (int i = 0; i < step.num_sequences; ++i)
      longest = std::max(longest, step.context_lens[i] + step.node_counts[i]);
    const int64_t pairs = static_cast<int64_t>(VisibleSlots::kRows) * s.num_heads / s.num_kv_heads;
    scratch_.resize(threads_);
    for (auto& scratch : scratch_) {
      scratch.scores.resize(pairs * (longest + 32));
      scratch.sums.resize(pairs * s.head_dim);
    }
  }

  void run_layer(Team& team, const Layer& layer, const GlidecapeStep& step, const CacheView& cache,
                 float* x, int phase, int thread) {
    const auto& s = shape_;
    const int rows = step.num_rows;
    const auto norm = [&](const Floats& weight) {
      team.for_each(phase++, rows, [&](int row) {
        rms_norm_row(x + static_cast<int64_t>(row) * s.hidden, weight.data(), s.hidden, s.eps,
                     normed_.data() + static_cast<int64_t>(row) * s.hidden);
      });
    };
    norm(layer.attention_norm);
    const int qkv_width = layer.qkv.packed.outputs;
    multiply(team, phase++, layer.qkv.packed, normed_.data(), rows,
             [&](int row, int first, int count, const float* sums) {
               float* to = qkv_.data() + static_cast<int64_t>(row) * qkv_width + first;
               for (int i = 0; i < count; ++i) to[i] = sums[i];
             });
    team.for_each(phase++, rows, [&](int row) { rotate_and_write(layer, step, cache, row); });
    const int num_blocks = static_cast<int>(visible_.blocks().size());
    team.for_each(phase++, num_blocks * s.num_kv_heads, [&](int task) {
      attend_block(layer, step, cache, visible_.blocks()[task / s.num_kv_heads],
                   task % s.num_kv_heads, scratch_[thread]);
    });
    const auto add_to_residual = [&](int row, int first, int count, const float* sums) {
      float* to = x + static_cast<int64_t>(row) * s.hidden + first;
      for (int i = 0; i < count; ++i) to[i] += sums[i];
    };
    multiply(team, phase++, layer.output.packed, attended_.data(), rows, add_to_residual);
    norm(layer.mlp_norm);
    multiply(team, phase++, layer.gate_up.packed, normed_.data(), rows,
             [&](int row, int first, int, const float* sums) {
               silu_product(sums, inner_.data() + static_cast<int64_t>(row) * s.inner + first / 2);
             });
    multiply(team, phase++, layer.down.packed, inner_.data(), rows, add_to_residual);
  }

  // use(row, first output, number of outputs, sums with the bias added)
  template <class Use>
  static void multiply(Team& team, int phase, const PackedMatrix& w, const bf16* x, int rows,
                       const Use& use) {
    const int row_blocks = (rows + kRowBlock - 1) / kRowBlock;
    team.for_each(phase, w.num_panels() * row_blocks, [&](int task) {
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
    Floats scores, sums;
  };

  void attend_block(const Layer& layer, const GlidecapeStep& step, const CacheView& cache,
                    const RowBlock& block, int kv_head, Scratch& scratch) {
    const auto& s = shape_;
    NodeKeys seen[VisibleSlots::kRows];
    for (int i = 0; i < block.count; ++i)
      seen[i] = visible_.keys(step, block.first + i, layer.window);
    const int group = s.num_heads / s.num_kv_heads;
    const int64_t row_stride = static_cast<int64_t>(s.num_heads) * s.head_dim;
    const int64_t at = block.first * row_stride + static_cast<int64_t>(kv_head) * group * s.head_dim;
    attend({cache, static_cast<int64_t>(s.num_kv_heads) * s.head_dim,
            static_cast<int64_t>(kv_head) * s.head_dim, group, s.head_dim, row_stride,
            query_.data() + at, attended_.data() + at, seen, block.count, scratch.scores.data(),
            scratch.sums.data()});
  }

  const GlidecapeShape shape_;
  const int threads_;
  std::vector<Layer> layers_;
  std::vector<bf16> normed_, query_, attended_, inner_;
  Floats qkv_;
  VisibleSlots visible_;
  std::vector<Scratch> scratch_;
};

struct Linear {
  Matrix matrix;
  int threads;
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

// Memory is all that can be lacking; a C caller can't catch it.
template <class Call>
static bool succeeds(const Call& call) noexcept {
  try {
    call();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void* glidecape_decoder_create(const GlidecapeShape* shape, int32_t threads) {
  void* decoder = nullptr;
  succeeds([&] { decoder = new Decoder(*shape, threads); });
  return decoder;
}

bool glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->set_layer(index, *layer); });
}

bool glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           float* x) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->run(*step, caches, x); });
}

void glidecape_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

void* glidecape_linear_create(const uint16_t* weight, int32_t outputs, int32_t inputs,
                              int32_t threads) {
  std::unique_ptr<Linear> linear;
  const bool packed = succeeds([&] {
    linear.reset(new Linear{{}, std::max(1, threads)});
    linear->matrix.pack(weight, nullptr, outputs, inputs, [](int i) { return i; });
  });
  return packed ? linear.release() : nullptr;
}

bool glidecape_linear_run(void* linear, const uint16_t* x, int32_t rows, float* y) {
  const auto& self = *static_cast<Linear*>(linear);
  const PackedMatrix& w = self.matrix.packed;
  const auto multiply = [&](int panel) {
    const int first = panel * kPanel, count = std::min(kPanel, w.outputs - first);
    multiply_panel(x, rows, w, panel, [&](int row, const float* sums) {
      std::memcpy(y + static_cast<int64_t>(row) * w.outputs + first, sums, count * sizeof(float));
    });
  };
  return succeeds([&] {
    SharedTeam::with(self.threads, [&](Team& team) {
      team.run([&](int) { team.for_each(0, w.num_panels(), multiply); }, 1);
    });
  });
}

void glidecape_linear_destroy(void* linear) { delete static_cast<Linear*>(linear); }
