// What a decoder layer does to one row between its matrix products.
#pragma once

#include <cmath>

#include "activations.h"
#include "vector_math.h"

namespace glidecape {

// put(i, 16 numbers from i on, the 16 after them) for every 32 of dim, a multiple of 16; beyond it, 0.
template <class Put>
inline void rms_norm(const float* x, const float* weight, int dim, float eps, const Put& put) {
  Lanes squares = all(0.0f);
  for (int i = 0; i < dim; i += 16) {
    const Lanes v = load(x + i);
    squares = fma(v, v, squares);
  }
  const Lanes scale = all(1.0f / std::sqrt(sum(squares) / dim + eps));
  const auto normed = [&](int i) {
    return i < dim ? load(x + i) * scale * load(weight + i) : all(0.0f);
  };
  for (int i = 0; i < dim; i += kGroup) put(i, normed(i), normed(i + 16));
}

template <class Rows>
inline void rms_norm_row(const float* x, const float* weight, int dim, float eps, Rows& out,
                         int64_t row) {
  rms_norm(x, weight, dim, eps, [&](int i, Lanes a, Lanes b) { out.put(row, i, a, b); });
}

// Rotates one head, normed first if weight is given. cos, sin: [dim / 2]
template <class X>
inline void rotate_head(const float* head, const float* norm_weight, float eps, const float* cos,
                        const float* sin, int dim, X* out) {
  float scale = 1.0f;
  if (norm_weight) {
    float squares = 0.0f;
    for (int i = 0; i < dim; ++i) squares += head[i] * head[i];
    scale = 1.0f / std::sqrt(squares / dim + eps);
  }
  const int half = dim / 2;
  for (int i = 0; i < half; i += 16) {
    Lanes a = load(head + i), b = load(head + half + i);
    if (norm_weight) {
      a = a * all(scale) * load(norm_weight + i);
      b = b * all(scale) * load(norm_weight + half + i);
    }
    const Lanes c = load(cos + i), s = load(sin + i);
    store(out + i, fnma(b, s, a * c));
    store(out + half + i, fma(a, s, b * c));
  }
}

// SwiGLU's product of 32 gates and the 32 ups after them.
template <class Rows>
inline void silu_product(const float* sums, Rows& out, int64_t row, int64_t first) {
  const auto product = [&](int i) {
    const Lanes gate = load(sums + i), up = load(sums + 32 + i);
    return gate / (all(1.0f) + exp(all(0.0f) - gate)) * up;
  };
  out.put(row, first, product(0), product(16));
}

}  // namespace glidecape
