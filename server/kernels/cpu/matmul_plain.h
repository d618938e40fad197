// y = x W^T for W in bfloat16 and x in floats or bfloat16, or both in floats; float32 sums, any number
// of rows.
//
// W is packed in panels of 64 outputs. Inside a panel of bfloat16, for every pair of inputs, four
// vectors of 16 outputs with the two inputs of each output side by side, as vdpbf16ps wants them:
//
//          output 0      output 1            output 15
//   k = 0 [w0,0 w0,1 | w1,0 w1,1 | …      | w15,0 w15,1]   outputs 16 … 31   32 … 47   48 … 63
//   k = 2 [w0,2 w0,3 | …
//
// In a panel of floats, eight vectors: 64 outputs of the first input, then of the second.
//
// A tile is some rows x 64, 32 or 16 outputs: so many that its sums (kTileLanes) stay in registers
// while the panel streams by, two inputs at a time. With AVX-512 up to 6 rows x 64 or 12 rows x 32
// outputs. The first tile of a panel reads it from memory and fetches the panel after it ahead of
// time; the other row tiles find it in the cache. Each lane is one output's sum over k = 0, 2, 4 … in
// this order, whatever the number of rows: a row's result does not depend on the other rows.
#pragma once

#include <algorithm>
#include <utility>

#include "activations.h"
#include "arena.h"
#include "matrix.h"

namespace glidecape {

// W: bf16 or float.
template <class W>
struct PlainMatrix : Matrix {
  static constexpr int kTileRows = kTileLanes >= 24 ? 12 : kTileLanes, kSmallestPart = kPanel;

  const W* panels = nullptr;  // [num_panels][inputs / 2][128]; inputs are even

  // Of the panel that begins with an output.
  const char* weights_of(int output) const {
    return reinterpret_cast<const char*>(panels + static_cast<int64_t>(output) * inputs);
  }

  // A panel's outputs for Rows rows from `first` on; out: [Rows][64].
  template <int Rows, class X>
  void multiply_rows(Outputs which, const PlainRows<X>& x, int64_t first, const char* ahead,
                     float* out) const;
};

// Of a pair of inputs: numbers from one of an output to its other, and from one output to the next.
template <class W>
struct PairLayout {
  static constexpr int kOther = 1, kNext = 2;
};
template <>
struct PairLayout<float> {
  static constexpr int kOther = kPanel, kNext = 1;
};

template <class W, class Order>
inline PlainMatrix<W> pack_plain(Arena& arena, const GlidecapeMatrix& from, const float* bias_or_null,
                                 int outputs, int inputs, const Order& order) {
  using Layout = PairLayout<W>;
  PlainMatrix<W> matrix;
  matrix.describe(arena, bias_or_null, outputs, inputs, order);
  const auto* rows = static_cast<const W*>(from.parts[0].rows);
  W* to = arena.take<W>(static_cast<int64_t>(matrix.num_panels()) * kPanel * inputs);
  matrix.panels = to;
  for (int begin = 0; begin < outputs; begin += kPanel) {
    for (int k = 0; k < inputs; k += 2, to += 2 * kPanel) {
      for (int i = 0; i < std::min(kPanel, outputs - begin); ++i) {  // the arena's memory is zeroed
        const W* pair = rows + static_cast<int64_t>(order(begin + i)) * inputs + k;
        to[i * Layout::kNext] = pair[0];
        to[i * Layout::kNext + Layout::kOther] = pair[1];
      }
    }
  }
  return matrix;
}

// Sums of a tile: Rows x (16 * Vectors) outputs. Three arithmetics with one interface; `step` adds the
// products of two inputs, panel points to their weights.
template <int Rows, int Vectors>
struct Tile {
  Lanes sums[Rows][Vectors];

  Tile() {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < Vectors; ++c) sums[r][c] = all(0.0f);
  }

#ifdef GLIDECAPE_AVX512
  // x: rows stride apart, here at the first of the two inputs.
  void step(const bf16* x, int64_t stride, const bf16* panel) {
    __m512bh weights[Vectors];
    for (int c = 0; c < Vectors; ++c) std::memcpy(weights + c, panel + 32 * c, sizeof weights[c]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + r * stride, sizeof pair);
      const __m512bh both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int c = 0; c < Vectors; ++c)
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], both, weights[c]);
    }
  }
#endif

  // The same with plain float multiply-adds: each weight pair is widened to two floats (the first
  // input's weight is the low half of the 32 bits, the second one's the high half).
  void step(const float* x, int64_t stride, const bf16* panel) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Lanes weights[Vectors];
#pragma GCC unroll 4
      for (int c = 0; c < Vectors; ++c) {
        const IntLanes pairs = load_ints(panel + 32 * c);
        weights[c] = half ? high_bf16(pairs) : low_bf16(pairs);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Lanes value = all(x[r * stride + half]);
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) sums[r][c] = fma(value, weights[c], sums[r][c]);
      }
    }
  }

  void step(const float* x, int64_t stride, const float* panel) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, panel += kPanel) {
      Lanes weights[Vectors];
#pragma GCC unroll 4
      for (int c = 0; c < Vectors; ++c) weights[c] = load(panel + 16 * c);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Lanes value = all(x[r * stride + half]);
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) sums[r][c] = fma(value, weights[c], sums[r][c]);
      }
    }
  }
};

// out: [Rows][64], of which 16 * Vectors outputs are written. ahead: memory that is wanted next, as
// much of it is fetched as the tile reads; or null.
template <int Rows, int Vectors, class X, class W>
inline void multiply_tile(const X* x, int64_t stride, int inputs, const W* panel, const char* ahead,
                          float* out) {
  constexpr int kLines = 2 * 16 * Vectors * sizeof(W) / 64;  // of memory, that a step reads
  Tile<Rows, Vectors> tile;
  for (int k = 0; k < inputs; k += 2, panel += 2 * kPanel) {
    if (ahead)
      for (int i = 0; i < kLines; ++i, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    tile.step(x + k, stride, panel);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < Vectors; ++c) store(out + r * kPanel + c * 16, tile.sums[r][c]);
}

template <class W>
template <int Rows, class X>
inline void PlainMatrix<W>::multiply_rows(Outputs which, const PlainRows<X>& x, int64_t first,
                                          const char* ahead, float* out) const {
  const W* weights = panels + static_cast<int64_t>(which.first) * inputs;
  const X* from = x.row(first);
  constexpr int kVectors = Rows * 4 <= kTileLanes ? 4 : Rows * 2 <= kTileLanes ? 2 : 1;
  for (int c = 0; c < kPanel; c += 16 * kVectors) {
    multiply_tile<Rows, kVectors>(from, x.stride(), inputs, weights + PairLayout<W>::kNext * c, ahead,
                                  out + c);
    if (ahead) ahead += static_cast<int64_t>(inputs) * kVectors * 16 * sizeof(W);  // what a tile reads
  }
}

#ifdef GLIDECAPE_AVX512
// Whether activations are kept as floats and not in bfloat16. One choice per machine, so that a row's
// result stays the same on it: Intel's cores start a vdpbf16ps every second cycle but two multiply-adds
// every cycle, AMD's are faster with vdpbf16ps, and some CPUs do not have it.
inline bool prefers_multiply_add() {
  static const bool prefers = __builtin_cpu_is("intel") || !__builtin_cpu_supports("avx512bf16");
  return prefers;
}
#endif

}  // namespace glidecape
