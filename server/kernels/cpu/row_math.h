// What a decoder layer does to one row between its matrix products.
#pragma once

#include <cmath>

#include "activations.h"
#include "vector_math.h"

namespace glidecape {

// dim: a multiple of 16.
template <class Rows>
inline void rms_norm_row(const float* x, const float* weight, int dim, float eps, Rows& out,
                         int64_t row) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < dim; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / dim + eps));
  const auto normed = [&](int i) {
    if (i >= dim) return _mm512_setzero_ps();
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), _mm512_loadu_ps(weight + i));
  };
  for (int i = 0; i < dim; i += kGroup) out.put(row, i, normed(i), normed(i + 16));
}

// Rotates one head, normed first if weight is given.
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
    __m512 a = _mm512_loadu_ps(head + i), b = _mm512_loadu_ps(head + half + i);
    if (norm_weight) {
      const __m512 s = _mm512_set1_ps(scale);
      a = _mm512_mul_ps(_mm512_mul_ps(a, s), _mm512_loadu_ps(norm_weight + i));
      b = _mm512_mul_ps(_mm512_mul_ps(b, s), _mm512_loadu_ps(norm_weight + half + i));
    }
    const __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_loadu_ps(sin + i);
    store(out + i, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)));
    store(out + half + i, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
  }
}

// SwiGLU's product of 32 gates and the 32 ups after them.
template <class Rows>
inline void silu_product(const float* sums, Rows& out, int64_t row, int64_t first) {
  const auto product = [&](int i) {
    const __m512 gate = _mm512_loadu_ps(sums + i), up = _mm512_loadu_ps(sums + 32 + i);
    const __m512 decay = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), gate));
    return _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), decay)), up);
  };
  out.put(row, first, product(0), product(16));
}

}  // namespace glidecape
