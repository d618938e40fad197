// The C ABI of the decoder stack; mirrored field by field in abi.py.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

struct GlidecapeShape {
  int32_t num_layers, hidden, inner, num_heads, num_kv_heads, head_dim;
  int32_t qk_norm;  // whether q and k are normed per head
  float eps;
};

// How weights are stored: as bfloat16, or in GGUF's blocks of 32 or 256 inputs. A model's matrices are
// all bfloat16 or all in blocks. Floats are for a product of its own.
enum {
  GLIDECAPE_BF16, GLIDECAPE_Q4_0, GLIDECAPE_Q4_1, GLIDECAPE_Q5_0, GLIDECAPE_Q5_1, GLIDECAPE_Q8_0,
  GLIDECAPE_IQ4_NL, GLIDECAPE_Q4_K, GLIDECAPE_Q5_K, GLIDECAPE_Q6_K, GLIDECAPE_FLOAT
};

struct GlidecapeRows {
  const void* rows;  // [count], one after another
  int32_t type, count;
};

// A weight matrix: the rows of its parts one after another. The parts after the last have no rows. Where
// there are several, all are in blocks, and each but the last has a multiple of 16 rows.
struct GlidecapeMatrix {
  GlidecapeRows parts[3];
};

// Rotary angles: position x frequency; their cosines and sines are scaled.
struct GlidecapeRotary {
  const float* frequencies;  // [head_dim / 2]
  float scale;
  // Where the base theta grows with the context beyond the trained one, by factor; else trained is 0.
  float theta, factor;
  int32_t trained;
};

// What a model has before and behind its layers.
struct GlidecapeEnds {
  const uint16_t* embedding;  // [vocabulary][hidden], kept where it is
  const float* final_norm;    // [hidden], copied
  GlidecapeRotary rotary;
};

// Weights of one layer: matrices [outputs][inputs], vectors float. They are copied. Biases may be
// null.
struct GlidecapeLayer {
  const float *attention_norm, *mlp_norm, *query_norm, *key_norm;
  GlidecapeMatrix qkv, output, gate_up, down;  // qkv and gate_up: their projections one after another
  const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias;
  int32_t window;  // sliding window in tokens, 0 for none
};

// One step, rows = nodes of all trees; see kernels/tree.py.
struct GlidecapeStep {
  int32_t num_rows, num_sequences, max_blocks, block_size;
  int32_t max_nodes;           // width of ancestors
  const int64_t* positions;    // [num_rows]
  const int64_t* slots;        // [num_rows]
  const int64_t* block_tables; // [num_sequences][max_blocks]
  const int64_t* context_lens; // [num_sequences]
  const int64_t* node_counts;  // [num_sequences]
  const uint8_t* ancestors;    // [num_rows][max_nodes], or null: chains
};

struct GlidecapeCache {
  uint16_t *keys, *values;
};

// No exception leaves these functions: what fails for want of memory returns null or false. Calls
// may come from any thread; steps run one at a time.
// quantized: whether the matrices will come in blocks.
void* glidecape_decoder_create(const GlidecapeShape* shape, const GlidecapeEnds* ends,
                               int32_t quantized, int32_t threads);
bool glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer);
// token_ids: [num_rows], each a row of the embedding. hidden: [num_rows][hidden] bfloat16, written: the
// final hidden states, normed.
bool glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           const int64_t* token_ids, uint16_t* hidden);
void glidecape_decoder_destroy(void* decoder);

// A matrix product of its own. weight: [outputs][inputs], copied; inputs even.
void* glidecape_linear_create(const GlidecapeMatrix* weight, int32_t outputs, int32_t inputs,
                              int32_t threads);
// Products of the same rows with `count` weights, which are of one kind: all floats, all bfloat16 or all in
// blocks. x: [rows][inputs], floats where the weights are, else bfloat16 -> y: for each weight
// [rows][outputs], floats, or bfloat16 if rounded.
bool glidecape_linear_run(void* const* linears, int32_t count, const void* x, int32_t rows, int32_t rounded,
                          void* const* y);
void glidecape_linear_destroy(void* linear);

// y = x / rms(x) * weight. x, y: [rows][dim] floats or bfloat16, dim a multiple of 16; weight: [dim].
bool glidecape_rms_norm(const void* x, const float* weight, int64_t rows, int32_t dim, float eps,
                        int32_t is_float, void* y);

// The largest of each row's logits, the first among equals; -1 for a row with NaN. best: [rows], written.
bool glidecape_best(const float* logits, int64_t rows, int64_t width, int64_t* best);
}
#pragma GCC visibility pop
