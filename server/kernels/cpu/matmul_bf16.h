// y = x W^T for bfloat16 x and W, float32 sums, any number of rows.
//
// W is packed in panels of 64 outputs. Inside a panel, for every pair of inputs, four vectors of
// 16 outputs with the two inputs of each output side by side, as vdpbf16ps wants them:
//
//          output 0      output 1            output 15
//   k = 0 [w0,0 w0,1 | w1,0 w1,1 | …      | w15,0 w15,1]   outputs 16 … 31   32 … 47   48 … 63
//   k = 2 [w0,2 w0,3 | …
//
// A tile is up to 6 rows x 64 outputs or 12 rows x 32 outputs: 24 accumulators stay in registers
// while the panel streams by, two inputs at a time. The first tile of a panel reads it from memory
// and fetches the panel after it ahead of time; the other row tiles find it in the cache. Each lane
// is one output's sum over k = 0, 2, 4 … in this order, whatever the number of rows: a row's result
// does not depend on its company.
#pragma once

#include <algorithm>
#include <utility>

#include "arena.h"
#include "team.h"
#include "vector_math.h"

namespace glidecape {

constexpr int kPanel = 64;
constexpr int kFewRows = 6;    // at most so many: one tile of 64 outputs
constexpr int kTileRows = 12;  // of 32 outputs

struct PackedMatrix {
  const bf16* panels = nullptr;  // [ceil(outputs / 64)][inputs / 2][64][2]
  const float* bias = nullptr;   // [num_panels * 64], or null
  int outputs = 0;
  int inputs = 0;  // even

  int num_panels() const { return (outputs + kPanel - 1) / kPanel; }
  const bf16* panel(int i) const { return panels + static_cast<int64_t>(i) * kPanel * inputs; }
};

// rows: [outputs][inputs] row-major; row i of the packed matrix is rows + order(i) * inputs.
template <class Order>
inline PackedMatrix pack(Arena& arena, const bf16* rows, const float* bias_or_null, int outputs,
                         int inputs, const Order& order) {
  const int num_panels = (outputs + kPanel - 1) / kPanel;
  const int64_t padded = static_cast<int64_t>(num_panels) * kPanel;
  bf16* panels = arena.take<bf16>(padded * inputs);
  for (int panel = 0; panel < num_panels; ++panel) {
    bf16* to = panels + static_cast<int64_t>(panel) * kPanel * inputs;
    for (int k = 0; k < inputs; k += 2) {
      for (int output = panel * kPanel; output < (panel + 1) * kPanel; ++output, to += 2)
        if (output < outputs)  // the arena's memory is zeroed
          std::copy_n(rows + static_cast<int64_t>(order(output)) * inputs + k, 2, to);
    }
  }
  float* bias = bias_or_null ? arena.take<float>(padded) : nullptr;
  for (int i = 0; bias && i < outputs; ++i) bias[i] = bias_or_null[order(i)];
  return {panels, bias, outputs, inputs};
}

// Sums of a tile: Rows x (16 * Vectors) outputs. Two arithmetics with one interface; `step` adds the
// products of two inputs, panel points to their weights.
template <int Rows, int Vectors>
struct Tile {
  __m512 sums[Rows][Vectors];

  Tile() {
    for (int r = 0; r < Rows; ++r)
      for (int c = 0; c < Vectors; ++c) sums[r][c] = _mm512_setzero_ps();
  }

  // x: [Rows][inputs], here at the first of the two inputs.
  void step(const bf16* x, int inputs, const bf16* panel) {
    __m512bh weights[Vectors];
    for (int c = 0; c < Vectors; ++c) weights[c] = load_pairs(panel + 32 * c);
    for (int r = 0; r < Rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + static_cast<int64_t>(r) * inputs, sizeof pair);
      const __m512bh both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int c = 0; c < Vectors; ++c)
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], both, weights[c]);
    }
  }

  // The same with plain float multiply-adds: each weight pair is widened to two floats (the first
  // input's weight is the low half of the 32 bits, the second one's the high half).
  void step(const float* x, int inputs, const bf16* panel) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int half = 0; half < 2; ++half) {
      __m512 weights[Vectors];
      for (int c = 0; c < Vectors; ++c) {
        const __m512i pairs = _mm512_loadu_si512(panel + 32 * c);
        weights[c] = _mm512_castsi512_ps(half ? _mm512_and_si512(pairs, high)
                                              : _mm512_slli_epi32(pairs, 16));
      }
      for (int r = 0; r < Rows; ++r) {
        const __m512 value = _mm512_set1_ps(x[static_cast<int64_t>(r) * inputs + half]);
        for (int c = 0; c < Vectors; ++c)
          sums[r][c] = _mm512_fmadd_ps(value, weights[c], sums[r][c]);
      }
    }
  }
};

// out: [Rows][64], of which 16 * Vectors outputs are written. ahead: memory that is wanted next, as
// much of it is fetched as the tile reads; or null.
template <int Rows, int Vectors, class X>
inline void multiply_tile(const X* x, int inputs, const bf16* panel, const char* ahead, float* out) {
  Tile<Rows, Vectors> tile;
  for (int k = 0; k < inputs; k += 2, panel += 2 * kPanel) {
    if (ahead)
      for (int c = 0; c < Vectors; ++c, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    tile.step(x + k, inputs, panel);
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Vectors; ++c) _mm512_storeu_ps(out + r * kPanel + c * 16, tile.sums[r][c]);
}

// One panel for a fixed number of rows.
template <int Rows, class X>
inline void multiply_rows(const X* x, int inputs, const bf16* panel, const char* ahead, float* out) {
  if constexpr (Rows <= kFewRows) {
    multiply_tile<Rows, 4>(x, inputs, panel, ahead, out);
  } else {
    const int64_t fetched = static_cast<int64_t>(inputs) * kPanel;  // bytes, by the first half
    multiply_tile<Rows, 2>(x, inputs, panel, ahead, out);
    multiply_tile<Rows, 2>(x, inputs, panel + kPanel, ahead ? ahead + fetched : nullptr, out + 32);
  }
}

// rows: 1 … kTileRows
template <class X, int... Less>
inline void multiply_rows(std::integer_sequence<int, Less...>, int rows, const X* x, int inputs,
                          const bf16* panel, const char* ahead, float* out) {
  using Multiply = void (*)(const X*, int, const bf16*, const char*, float*);
  static constexpr Multiply kByRows[] = {multiply_rows<Less + 1, X>...};
  kByRows[rows - 1](x, inputs, panel, ahead, out);
}

// Multiplies all rows by one panel and hands each row's 64 sums, bias added, to use(row, sums).
// ahead: the panel that this thread probably takes next, or null.
template <class X, class Use>
inline void multiply_panel(const X* x, int rows, const PackedMatrix& w, int panel, const bf16* ahead,
                           const Use& use) {
  constexpr std::make_integer_sequence<int, kTileRows> kSizes{};
  alignas(64) float sums[kTileRows * kPanel];
  // As few tiles as possible, of about equal height.
  for (int row = 0, tiles = (rows + kTileRows - 1) / kTileRows; tiles > 0; --tiles) {
    const int count = (rows - row + tiles - 1) / tiles;
    multiply_rows(kSizes, count, x + static_cast<int64_t>(row) * w.inputs, w.inputs, w.panel(panel),
                  reinterpret_cast<const char*>(ahead), sums);
    for (int r = 0; r < count; ++r) {
      for (int i = 0; w.bias && i < kPanel; ++i) sums[r * kPanel + i] += w.bias[panel * kPanel + i];
      use(row + r, sums + r * kPanel);
    }
    row += count;
    ahead = nullptr;
  }
}

// All panels of a product, shared out over the team. use(row, first output, number of outputs, sums).
// after: the matrix that the product after this one reads, or null.
template <class X, class Use>
inline void multiply(Team& team, int phase, const PackedMatrix& w, const PackedMatrix* after,
                     const X* x, int rows, const Use& use) {
  constexpr int kRowBlock = 48;  // rows a panel is multiplied with before the next chunk
  const int row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  team.for_each(phase, w.num_panels() * row_blocks, [&](int task) {
    const int panel = task / row_blocks, begin = task % row_blocks * kRowBlock;
    const int first = panel * kPanel, count = std::min(kPanel, w.outputs - first);
    const bf16* ahead = nullptr;
    if (const int next = panel + team.size(); begin == 0)
      ahead = next < w.num_panels() ? w.panel(next) : after ? after->panel(next - w.num_panels()) : ahead;
    multiply_panel(x + static_cast<int64_t>(begin) * w.inputs, std::min(kRowBlock, rows - begin), w,
                   panel, ahead,
                   [&](int row, const float* sums) { use(begin + row, first, count, sums); });
  });
}

// Intel's cores start a vdpbf16ps every second cycle but two multiply-adds every cycle; AMD's are
// faster with vdpbf16ps. One choice per machine, so that a row's result stays the same on it:
// activations are floats where this is true, bfloat16 otherwise.
inline bool prefers_multiply_add() {
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
}

}  // namespace glidecape
