// The C ABI of drawing tokens from logits; mirrored field by field in abi.py.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

// How a row's token is drawn.
struct GlidecapeDraw {
  float temperature;   // above 0
  int32_t top_k;       // 0 for all
  float top_p, min_p;  // 1 and 0 for all
  double uniform;      // from 0 on, below 1
};

// Inverse CDF over each row's softmax(logits / temperature), in order of token ids, of the tokens that
// top_k, top_p and min_p leave (engine/step/truncation.py). how, drawn: [rows]; drawn is written: width for
// a row that has no largest finite logit, or has NaN.
bool glidecape_draw(const float* logits, int64_t rows, int64_t width, const GlidecapeDraw* how,
                    int64_t* drawn);
}
#pragma GCC visibility pop
