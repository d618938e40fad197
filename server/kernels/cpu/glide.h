// The C ABI of the GliDe draft; mirrored field by field in abi.py.
#pragma once

#include "decoder.h"

#pragma GCC visibility push(default)
extern "C" {

struct GlidecapeGlideShape {
  GlidecapeShape self;  // of the draft's one layer
  int32_t cross_heads, cross_kv_heads, cross_head_dim;  // the target's
  int32_t num_glimpsed;   // target layers read
  int32_t num_tokens;     // rows of the head
  int32_t target_hidden;  // size of the target's hidden state where it is glimpsed, else 0
  int32_t max_delay;
  int32_t copy_hint;    // whether what was looked up is a hint
  int32_t max_match;  // numbers of equal tokens, from 1 on, that are told apart
  GlidecapeRotary rotary, cross_rotary;  // of the self-attention, and of the glimpse
};

// As in GlidecapeLayer, everything but the embedding is copied. The matrices are all bfloat16 or all
// in blocks.
struct GlidecapeGlideWeights {
  GlidecapeLayer layer;
  const int32_t* windows;         // [num_glimpsed], of the target's layers, 0 for none
  const float* cross_norm;        // [hidden] or null
  GlidecapeMatrix cross_query;    // [num_glimpsed * cross_heads * cross_head_dim][hidden]
  const float* cross_query_bias;  // or null
  GlidecapeMatrix cross_output;   // [hidden][num_glimpsed * cross_heads * cross_head_dim]
  const float* final_norm;        // [hidden] or null
  GlidecapeMatrix head;           // [num_tokens][hidden]
  const int64_t* token_ids;       // [num_tokens]: the token behind each row of the head
  const uint16_t* embedding;      // [vocabulary][hidden], kept where it is
  GlidecapeMatrix hint_proj;      // [hidden][target_hidden, then hidden if it copies]
  const float* delays;            // [max_delay][hidden]
  const float* matches;           // [max_match + 1][hidden]
};

// The caches a draft works on.
struct GlidecapeGlideCaches {
  GlidecapeCache self;
  const GlidecapeCache* glimpsed;  // [num_glimpsed]
};

// Tokens beyond the head's that a sequence shows, which a draft may say there too.
struct GlidecapeOwnTokens {
  int32_t most;                 // of any sequence
  const int64_t* counts;        // [num_sequences]
  const int64_t* const* ids;    // [num_sequences] -> [counts[i]]
  const uint16_t* const* rows;  // [num_sequences] -> [counts[i]][hidden]: of the target's head
};

// One forward over any trees.
struct GlidecapeGlideStep {
  GlidecapeStep step;           // of the self-attention
  const int64_t* token_ids;     // [num_rows]
  const int64_t* visible_lens;  // [num_sequences]: tokens of the target's cache that are glimpsed
  const uint16_t* hidden;       // [num_rows][target_hidden] or null
  int32_t delay;                // 1 …, where logits are wanted
  const GlidecapeOwnTokens* own;  // or null
  // What was looked up, or both null: the token, -1 for none, and how many before it are equal, 0 then.
  const int64_t *copied, *num_equal;  // [num_rows]
};

// A chain of tokens for each sequence, the longest wanted one first.
struct GlidecapeRound {
  int32_t num_sequences, max_blocks, block_size, num_candidates;
  const int64_t* token_ids;     // [num_sequences]: the last committed token …
  const int64_t* starts;        // … and its position: as many tokens of the target are glimpsed
  const int64_t* depths;        // [num_sequences]: most tokens wanted, not increasing
  const int64_t* block_tables;  // [num_sequences][max_blocks]
  // Committed tokens right before the roots, whose own KV is written first: how many of each sequence,
  // and the tokens, one sequence after another; or both null.
  const int64_t *behind_counts, *behind;
  const uint16_t* hidden;       // [num_sequences][target_hidden] or null
  const GlidecapeOwnTokens* own;  // or null
  const int64_t *copied, *num_equal;  // [depths[0]][num_sequences], or both null
  // A chain ends where its survival, the product of its tokens' chances, is below least. A chance is
  // offset + slope x confidence, at most 1, in each of num_lines equal ranges of confidence.
  const float* least;              // [num_sequences]
  const float *offsets, *slopes;   // [num_lines]
  int32_t num_lines;
  int64_t* candidates;   // written: [depths[0]][num_sequences][num_candidates], most probable first
  float* confidences;    // written: their probabilities
  int64_t* drafted;      // written: [num_sequences], tokens of each chain
};

void* glidecape_glide_create(const GlidecapeGlideShape* shape, const GlidecapeGlideWeights* weights,
                             int32_t threads);
// logits: [num_rows][num_tokens + own->most], written: of the head's tokens, then of the row's
// sequence's own; -infinity where it has fewer.
bool glidecape_glide_logits(void* glide, const GlidecapeGlideStep* step,
                            const GlidecapeGlideCaches* caches, float* logits);
// Writes the rows' own KV and nothing else.
bool glidecape_glide_fill(void* glide, const GlidecapeGlideStep* step,
                          const GlidecapeGlideCaches* caches);
bool glidecape_glide_draft(void* glide, const GlidecapeRound* round,
                           const GlidecapeGlideCaches* caches);
void glidecape_glide_destroy(void* glide);

// Bytes of each structure of this ABI, decoder.h's first, in the headers' order; 0 ends the list. So
// library.py finds out that a library was built from other sources than its own.
const int32_t* glidecape_structure_sizes();
}
#pragma GCC visibility pop
