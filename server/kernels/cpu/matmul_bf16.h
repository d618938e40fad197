// y = x W^T for bfloat16 x and W, float32 sums, any number of rows.
//
// W is packed in panels of 64 outputs. Inside a panel, for every pair of inputs, four vectors of
// 16 outputs with the two inputs of each output side by side, as vdpbf16ps wants them:
//
//          output 0      output 1            output 15
//   k = 0 [w0,0 w0,1 | w1,0 w1,1 | …      | w15,0 w15,1]   outputs 16 … 31   32 … 47   48 … 63
//   k = 2 [w0,2 w0,3 | …
//
// A tile is up to 6 rows x 64 outputs: 24 accumulators stay in registers while the panel streams by
// once, two inputs at a time. Each lane is one output's sum over k = 0, 2, 4 … in this order,
// whatever the number of rows: a row's result does not depend on its company.
#pragma once

#include <vector>

#include "vector_math.h"

namespace glidecape {

constexpr int kPanel = 64;
constexpr int kTileRows = 6;

struct PackedMatrix {
  const bf16* panels;  // [ceil(outputs / 64)][inputs / 2][64][2]
  const float* bias;   // [outputs], or null
  int outputs;
  int inputs;  // even

  int num_panels() const { return (outputs + kPanel - 1) / kPanel; }
  const bf16* panel(int i) const { return panels + static_cast<int64_t>(i) * kPanel * inputs; }
};

// rows: [outputs][inputs] row-major; row i of the packed matrix is rows + order(i) * inputs.
template <class Order>
inline void pack_panels(const bf16* rows, int outputs, int inputs, const Order& order, bf16* panels) {
  const int num_panels = (outputs + kPanel - 1) / kPanel;
  for (int panel = 0; panel < num_panels; ++panel) {
    bf16* to = panels + static_cast<int64_t>(panel) * kPanel * inputs;
    for (int k = 0; k < inputs; k += 2) {
      for (int lane = 0; lane < kPanel; ++lane, to += 2) {
        const int output = panel * kPanel + lane;
        const bf16* from = output < outputs ? rows + static_cast<int64_t>(order(output)) * inputs + k
                                            : nullptr;
        to[0] = from ? from[0] : 0;
        to[1] = from ? from[1] : 0;
      }
    }
  }
}

template <int Rows>
inline void multiply_tile(const bf16* x, int inputs, const bf16* panel, float* out) {
  __m512 sums[Rows][4];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
  for (int k = 0; k < inputs; k += 2, panel += 2 * kPanel) {
    const __m512bh w0 = load_pairs(panel), w1 = load_pairs(panel + 32);
    const __m512bh w2 = load_pairs(panel + 64), w3 = load_pairs(panel + 96);
    for (int r = 0; r < Rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + static_cast<int64_t>(r) * inputs + k, sizeof pair);
      const __m512bh both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], both, w0);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], both, w1);
      sums[r][2] = _mm512_dpbf16_ps(sums[r][2], both, w2);
      sums[r][3] = _mm512_dpbf16_ps(sums[r][3], both, w3);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < 4; ++c) _mm512_storeu_ps(out + r * kPanel + c * 16, sums[r][c]);
}

// The same product with plain float multiply-adds: each weight pair is widened to two floats (the
// first input's weight is the low half of the 32 bits, the second one's the high half).
template <int Rows>
inline void multiply_tile(const float* x, int inputs, const bf16* panel, float* out) {
  __m512 sums[Rows][4];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int k = 0; k < inputs; k += 2, panel += 2 * kPanel) {
    for (int half = 0; half < 2; ++half) {
      __m512 w[4];
      for (int c = 0; c < 4; ++c) {
        const __m512i pairs = _mm512_loadu_si512(panel + 32 * c);
        w[c] = _mm512_castsi512_ps(half ? _mm512_and_si512(pairs, high)
                                        : _mm512_slli_epi32(pairs, 16));
      }
      for (int r = 0; r < Rows; ++r) {
        const __m512 value = _mm512_set1_ps(x[static_cast<int64_t>(r) * inputs + k + half]);
        for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_fmadd_ps(value, w[c], sums[r][c]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < 4; ++c) _mm512_storeu_ps(out + r * kPanel + c * 16, sums[r][c]);
}

template <class X>
inline void multiply_rows(const X* x, int rows, int inputs, const bf16* panel, float* out) {
  switch (rows) {
    case 1: return multiply_tile<1>(x, inputs, panel, out);
    case 2: return multiply_tile<2>(x, inputs, panel, out);
    case 3: return multiply_tile<3>(x, inputs, panel, out);
    case 4: return multiply_tile<4>(x, inputs, panel, out);
    case 5: return multiply_tile<5>(x, inputs, panel, out);
    default: return multiply_tile<6>(x, inputs, panel, out);
  }
}

// Intel's cores start a vdpbf16ps every second cycle but two multiply-adds every cycle; AMD's are
// faster with vdpbf16ps. One choice per machine, so that a row's result stays the same on it.
inline bool prefers_multiply_add() {
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
}

inline void widen(const bf16* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(to + i, load_bf16(from + i));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// Multiplies all rows by one panel and hands each row's 64 sums to use(row, sums).
template <class Use>
inline void multiply_panel(const bf16* x, int rows, const PackedMatrix& w, int panel, const Use& use) {
  alignas(64) float sums[kTileRows * kPanel];
  thread_local std::vector<float> wide;
  const bool multiply_add = prefers_multiply_add();
  if (multiply_add) wide.resize(static_cast<int64_t>(kTileRows) * w.inputs);
  for (int row = 0; row < rows;) {
    const bf16* from = x + static_cast<int64_t>(row) * w.inputs;
    const int count = rows - row < kTileRows ? rows - row : kTileRows;
    if (multiply_add) {
      widen(from, static_cast<int64_t>(count) * w.inputs, wide.data());
      multiply_rows(wide.data(), count, w.inputs, w.panel(panel), sums);
    } else {
      multiply_rows(from, count, w.inputs, w.panel(panel), sums);
    }
    for (int r = 0; r < count; ++r) use(row + r, sums + r * kPanel);
    row += count;
  }
}

}  // namespace glidecape
