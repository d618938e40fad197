// A packed weight matrix, whatever its elements, and products with it shared out over a team.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "arena.h"
#include "decoder.h"
#include "team.h"

namespace glidecape {

constexpr int kPanel = 64;  // outputs that are packed together

struct Matrix {
  const float* bias = nullptr;  // [num_panels * 64], or null
  int outputs = 0, inputs = 0;

  int num_panels() const { return (outputs + kPanel - 1) / kPanel; }

  // Row i of the packed matrix is row order(i) of the given one.
  template <class Order>
  void describe(Arena& arena, const float* bias_or_null, int outputs, int inputs, const Order& order) {
    this->outputs = outputs;
    this->inputs = inputs;
    if (!bias_or_null) return;
    float* to = arena.take<float>(static_cast<int64_t>(num_panels()) * kPanel);
    for (int i = 0; i < outputs; ++i) to[i] = bias_or_null[order(i)];
    bias = to;
  }
};

// M::multiply_rows<1 … M::kTileRows> by the number of rows.
template <class M, class Rows, int... Less>
inline void multiply_tile_of(std::integer_sequence<int, Less...>, int count, const M& w, int panel,
                             const Rows& x, int64_t first, const char* ahead, float* out) {
  using Multiply = void (M::*)(int, const Rows&, int64_t, const char*, float*) const;
  static constexpr Multiply kByRows[] = {&M::template multiply_rows<Less + 1>...};
  const Multiply multiply = kByRows[count - 1];
  (w.*multiply)(panel, x, first, ahead, out);
}

// Multiplies rows first … first + rows - 1 by one panel and hands each row's 64 sums, bias added, to
// use(row, sums). ahead: the panel that this thread probably takes next, or null.
template <class M, class Rows, class Use>
inline void multiply_panel(const M& w, int panel, const Rows& x, int first, int rows,
                           const char* ahead, const Use& use) {
  constexpr std::make_integer_sequence<int, M::kTileRows> kSizes{};
  alignas(64) float sums[M::kTileRows * kPanel];
  // As few tiles as possible, of about equal height.
  const int end = first + rows;
  for (int tiles = (rows + M::kTileRows - 1) / M::kTileRows; tiles > 0; --tiles) {
    const int count = (end - first + tiles - 1) / tiles;
    multiply_tile_of(kSizes, count, w, panel, x, first, ahead, sums);
    for (int r = 0; r < count; ++r) {
      float* row = sums + r * kPanel;
      for (int i = 0; w.bias && i < kPanel; ++i) row[i] += w.bias[panel * kPanel + i];
      use(first + r, row);
    }
    first += count;
    ahead = nullptr;
  }
}

struct Nothing {
  void operator()(int) const {}
};

// All panels of a product. use(row, first output, number of outputs, sums). after: the matrix that
// the product after this one reads, or null. then(row): what each row goes on with; it takes a second
// phase.
template <class M, class Rows, class Use, class Then = Nothing>
inline void multiply(Team& team, int phase, const M& w, const M* after, const Rows& x, int rows,
                     const Use& use, const Then& then = {}) {
  constexpr int kRowBlock = 48;  // rows a panel is multiplied with before the next chunk
  const int row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  const auto panel_with_rows = [&](int task) {
    const int panel = task / row_blocks, begin = task % row_blocks * kRowBlock;
    const int output = panel * kPanel, count = std::min(kPanel, w.outputs - output);
    const char* ahead = nullptr;
    if (const int next = panel + team.size(); begin == 0) {
      if (next < w.num_panels()) ahead = w.panel(next);
      else if (after) ahead = after->panel(next - w.num_panels());
    }
    multiply_panel(w, panel, x, begin, std::min(kRowBlock, rows - begin), ahead,
                   [&](int row, const float* sums) { use(row, output, count, sums); });
  };
  const int tasks = w.num_panels() * row_blocks;
  if constexpr (std::is_same_v<Then, Nothing>) team.for_each(phase, tasks, panel_with_rows);
  else team.for_each_then(phase, tasks, panel_with_rows, rows, then);
}

}  // namespace glidecape
