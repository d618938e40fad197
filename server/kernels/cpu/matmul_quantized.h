// y = x W^T for W in GGUF's blocks (gguf_blocks.h) and x of 8 and 15 bits (dot.h), both in groups of 32
// inputs with a scale each.
//
// A weight is scale * q + offset. One group of one row is then
//
//   sum w x = scale_w scale_x (sum q x) + offset (scale_x sum x)
//
// with an exact integer sum (dot.h); with Q6_K, whose scales are of half groups, that is two sums. W is
// packed in panels of 64 outputs, a panel in four strips of 16. Each strip is of one type, so that a
// matrix can be of several:
//
//   integers, group after group (encoding.h) | scales and offsets, block after block (scales.h)
//
// A tile is up to 16 rows x 16 outputs: the weights of a group are unpacked once, and used by all rows,
// or by a few where they are multiplied in pairs (dot_pairs.h). A row's sum is formed group by group in
// this order, whatever the number of rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "activations.h"
#include "gguf_blocks.h"
#include "matrix.h"

namespace glidecape {

// 16 outputs of a packed matrix.
struct Strip {
  const uint8_t* begin;
  int type;

  static constexpr int kOutputs = 16;
  static int64_t value_bytes(int type, int inputs);
  static int64_t bytes(int type, int inputs);
};

struct QuantizedMatrix : Matrix {
  static constexpr int kTileRows = 16, kSmallestPart = Strip::kOutputs;
  static constexpr int kStrips = kPanel / Strip::kOutputs;

  const Strip* strips = nullptr;  // [num_panels * 4], in memory one after another

  // Where those of an output begin; null beyond the last.
  const char* weights_of(int output) const {
    return output < outputs ? reinterpret_cast<const char*>(strips[output / Strip::kOutputs].begin) : nullptr;
  }

  // Some outputs for Rows rows from `first` on; out: [Rows][64], as many written as there are.
  template <int Rows>
  void multiply_rows(Outputs which, const QuantizedRows& x, int64_t first, const char* ahead,
                     float* out) const;
};

// A row of a given matrix.
struct BlockRow {
  int type;
  const uint8_t* blocks;
};

BlockRow block_row(const GlidecapeMatrix& matrix, int row, int inputs);

// Adds a row as output `lane` of a strip that was zeroed.
void pack_row(const BlockRow& row, int inputs, int lane, uint8_t* strip);

template <class Order>
inline QuantizedMatrix pack_quantized(Arena& arena, const GlidecapeMatrix& from,
                                      const float* bias_or_null, int outputs, int inputs,
                                      const Order& order) {
  QuantizedMatrix matrix;
  matrix.describe(arena, bias_or_null, outputs, inputs, order);
  const int num_strips = matrix.num_panels() * QuantizedMatrix::kStrips;
  Strip* strips = arena.take<Strip>(num_strips);
  int64_t bytes = 0;
  for (int i = 0; i < num_strips; ++i) {  // those beyond the outputs are zeros of the last one's type
    strips[i].type = block_row(from, order(std::min(i * Strip::kOutputs, outputs - 1)), inputs).type;
    bytes += Strip::bytes(strips[i].type, inputs);
  }
  uint8_t* memory = arena.take<uint8_t>(bytes);
  for (int i = 0; i < num_strips; ++i) {
    strips[i].begin = memory;
    const int end = std::min(Strip::kOutputs, outputs - i * Strip::kOutputs);
    for (int lane = 0; lane < end; ++lane)
      pack_row(block_row(from, order(i * Strip::kOutputs + lane), inputs), inputs, lane, memory);
    memory += Strip::bytes(strips[i].type, inputs);
  }
  matrix.strips = strips;
  return matrix;
}

}  // namespace glidecape
