// What a model's weights are stored as, and what its activations become to meet them.
#pragma once

#include "matmul_plain.h"
#include "matmul_quantized.h"

namespace glidecape {

// W: what weights are, X: what activations become.
template <class W, class X>
struct PlainFormat {
  using Matrix = PlainMatrix<W>;
  using Rows = PlainRows<X>;

  template <class Order>
  static Matrix pack(Arena& arena, const GlidecapeMatrix& from, const float* bias, int outputs,
                     int inputs, const Order& order) {
    return pack_plain<W>(arena, from, bias, outputs, inputs, order);
  }
};

struct QuantizedFormat {
  using Matrix = QuantizedMatrix;
  using Rows = QuantizedRows;

  template <class Order>
  static Matrix pack(Arena& arena, const GlidecapeMatrix& from, const float* bias, int outputs,
                     int inputs, const Order& order) {
    return pack_quantized(arena, from, bias, outputs, inputs, order);
  }
};

// A Made<Format> for the format that such weights have on this machine.
template <class Base, template <class> class Made, class... Arguments>
inline Base* make_for(bool quantized, const Arguments&... arguments) {
  if (quantized) return new Made<QuantizedFormat>(arguments...);
#ifdef GLIDECAPE_AVX512
  if (!prefers_multiply_add()) return new Made<PlainFormat<bf16, bf16>>(arguments...);
#endif
  return new Made<PlainFormat<bf16, float>>(arguments...);
}

}  // namespace glidecape
