// The C ABI of attention alone, for layers whose products are computed elsewhere; mirrored field by field
// in abi.py.
#pragma once

#include <cstdint>

#include "decoder.h"

#pragma GCC visibility push(default)
extern "C" {

// Heads [rows][heads][head_dim] of a step's rows, as far apart as strides say; in numbers.
struct GlidecapeHeads {
  const void* first;
  int64_t row_stride, head_stride;
};

// What a layer's attention is. Numbers are floats or bfloat16, those of queries, keys, values and result.
struct GlidecapeAttention {
  int32_t is_float;
  int32_t num_heads, num_kv_heads;
  int32_t head_dim;   // of queries and keys
  int32_t value_dim;  // at most head_dim; in the cache zeros follow
  float scale;        // factor on every score
  float softcap;      // scores become softcap tanh(score / softcap); 0 for none
  int32_t window;     // sliding window in tokens, 0 for none
  int32_t chunk;      // rows see positions of their own chunk of so many alone; 0 for none
  const float* sinks; // [num_heads] scores that join the softmax and bring no value, or null
};

// One layer of a step.
struct GlidecapeAttentionCall {
  GlidecapeHeads queries, keys, values;
  void *key_cache, *value_cache;  // [num_slots][num_kv_heads][head_dim]; keys and values are written first
  void* out;                      // [rows][num_heads][value_dim], written
};

void* glidecape_attention_create(int32_t threads);
// Works out what the rows of a step see, for the calls of run up to the next begin.
bool glidecape_attention_begin(void* attention, const GlidecapeStep* step);
bool glidecape_attention_run(void* attention, const GlidecapeStep* step, const GlidecapeAttention* layer,
                             const GlidecapeAttentionCall* call);
void glidecape_attention_destroy(void* attention);
}
#pragma GCC visibility pop
