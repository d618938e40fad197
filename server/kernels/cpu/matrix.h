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
  bool whole_panels = false;  // whether who uses its sums needs those of a panel together

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

// Neighbouring outputs: of a whole panel, or of a part of one.
struct Outputs {
  int first, count;  // multiples of M::kSmallestPart
};

// M::multiply_rows<1 … M::kTileRows> by the number of rows.
template <class M, class Rows, int... Less>
inline void multiply_tile_of(std::integer_sequence<int, Less...>, int count, const M& w, Outputs outputs,
                             const Rows& x, int64_t first, const char* ahead, float* out) {
  using Multiply = void (M::*)(Outputs, const Rows&, int64_t, const char*, float*) const;
  static constexpr Multiply kByRows[] = {&M::template multiply_rows<Less + 1>...};
  const Multiply multiply = kByRows[count - 1];
  (w.*multiply)(outputs, x, first, ahead, out);
}

// Multiplies rows first … first + rows - 1 by some outputs' weights and hands each row's sums, bias
// added, to use(row, sums). ahead: the weights that this thread probably takes next, or null.
template <class M, class Rows, class Use>
inline void multiply_outputs(const M& w, Outputs outputs, const Rows& x, int first, int rows,
                             const char* ahead, const Use& use) {
  constexpr std::make_integer_sequence<int, M::kTileRows> kSizes{};
  alignas(64) float sums[M::kTileRows * kPanel];
  // As few tiles as possible, of about equal height.
  const int end = first + rows;
  for (int tiles = (rows + M::kTileRows - 1) / M::kTileRows; tiles > 0; --tiles) {
    const int count = (end - first + tiles - 1) / tiles;
    multiply_tile_of(kSizes, count, w, outputs, x, first, ahead, sums);
    for (int r = 0; r < count; ++r) {
      float* row = sums + r * kPanel;
      for (int i = 0; w.bias && i < outputs.count; ++i) row[i] += w.bias[outputs.first + i];
      use(first + r, row);
    }
    first += count;
    ahead = nullptr;
  }
}

struct Nothing {
  void operator()(int) const {}
};

// How many outputs a thread takes at a time: a panel of them, or less where there are so few tasks for
// each thread that some would wait long for the others. The fewer outputs, the more often a thread asks
// for the next ones, so a quarter of a panel only where there are fewer than four tasks for each.
template <class M>
inline int outputs_at_once(const M& w, int row_blocks, int num_threads) {
  if (w.whole_panels) return kPanel;
  const int tasks = w.num_panels() * row_blocks;
  const int parts = tasks < 4 * num_threads ? 4 : tasks < 16 * num_threads ? 2 : 1;
  return std::max(kPanel / parts, M::kSmallestPart);
}

// All outputs of a product. use(row, first output, number of outputs, sums). after: the matrix that
// the product after this one reads, or null. then(row): what each row goes on with; it takes a second
// phase.
template <class M, class Rows, class Use, class Then = Nothing>
inline void multiply(Team::Worker& worker, int phase, const M& w, const M* after, const Rows& x,
                     int rows, const Use& use, const Then& then = {}) {
  constexpr int64_t kFetchedWaiting = 64 << 10;  // a part of what a core's second cache holds
  constexpr int kRowBlock = 48;  // rows that some weights are multiplied with before the next ones
  const int row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  const auto width_of = [&](const M& of) { return outputs_at_once(of, row_blocks, worker.team_size()); };
  const auto num_tasks = [&](const M& of) { return (of.outputs + width_of(of) - 1) / width_of(of) * row_blocks; };
  const int width = width_of(w), tasks = num_tasks(w);
  // Of this thread's share, or of its share of the next product.
  const char* first_after = nullptr;
  if (after) {
    const int first = worker.begin_of_share(worker.thread(), num_tasks(*after)) / row_blocks;
    first_after = after->weights_of(first * width_of(*after));
    if (first_after) worker.fetch_while_waiting(first_after, kFetchedWaiting);
  }
  const auto part_with_rows = [&](int task) {
    const int part = task / row_blocks, begin = task % row_blocks * kRowBlock;
    const int output = part * width, count = std::min(width, w.outputs - output);
    const char* ahead = nullptr;
    if (begin == 0)
      ahead = worker.owns((part + 1) * row_blocks, tasks) ? w.weights_of(output + width) : first_after;
    multiply_outputs(w, {output, width}, x, begin, std::min(kRowBlock, rows - begin), ahead,
                     [&](int row, const float* sums) { use(row, output, count, sums); });
  };
  if constexpr (std::is_same_v<Then, Nothing>) worker.for_each(phase, tasks, part_with_rows);
  else worker.for_each_then(phase, tasks, part_with_rows, rows, then);
}

}  // namespace glidecape
