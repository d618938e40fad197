// y = x W^T for W of 4 or 8 bits and x of 8 and 15 bits (dot.h), both in groups of 32 inputs with a scale
// each.
//
// A weight is scale * q + offset with q from 0 to 15 or 255, as GGUF's Q4_1 and Q8_0 blocks have it
// (Q8_0: q = value + 128, offset = -128 * scale). One group of one row is then
//
//   sum w x = scale_w scale_x (sum q x) + offset (scale_x sum x)
//
// with an exact integer sum (dot.h). W is packed in panels of 64 outputs, a panel in four strips of
// 16; of a strip, one group of inputs after another:
//
//   values of 16 outputs, as dot.h has them | scales [16] | offsets [16], half precision
//
// A tile is up to 16 rows x 16 outputs: the weights of a group are unpacked once, and used by all rows,
// or by a few where they are multiplied in pairs (dot_pairs.h). A row's sum is formed group by group in
// this order, whatever the number of rows.
#pragma once

#include <cstring>

#include "activations.h"
#include "matrix.h"

namespace glidecape {

struct QuantizedMatrix : Matrix {
  static constexpr int kTileRows = 16;
  static constexpr int kStrip = 16;  // outputs

  const uint8_t* panels = nullptr;  // [num_panels][4 strips][groups][group_bytes]
  int bits = 8;

  int groups() const { return inputs / kGroup; }
  int group_bytes() const { return kStrip * (kGroup * bits / 8 + 4); }
  int64_t strip_bytes() const { return static_cast<int64_t>(groups()) * group_bytes(); }
  const char* panel(int i) const {
    return reinterpret_cast<const char*>(panels) + i * (kPanel / kStrip) * strip_bytes();
  }

  // One panel for Rows rows from `first` on; out: [Rows][64].
  template <int Rows>
  void multiply_rows(int panel, const QuantizedRows& x, int64_t first, const char* ahead,
                     float* out) const;
};

// One row's group as GGUF has it, unpacked.
struct Block {
  uint8_t values[kGroup];
  uint16_t scale, offset;  // half precision

  static constexpr int size(int type) { return type == GLIDECAPE_Q4_1 ? 20 : 34; }

  static Block read(int type, const uint8_t* from) {
    Block block;
    std::memcpy(&block.scale, from, 2);
    if (type == GLIDECAPE_Q4_1) {
      std::memcpy(&block.offset, from + 2, 2);
      for (int i = 0; i < 16; ++i) {
        block.values[i] = from[4 + i] & 15;
        block.values[16 + i] = from[4 + i] >> 4;
      }
    } else {
      for (int i = 0; i < kGroup; ++i) block.values[i] = from[2 + i] ^ 0x80;
      // Exact unless it overflows, which takes a scale above 511.
      block.offset = times_minus_128(block.scale);
    }
    return block;
  }
};

template <class Order>
inline QuantizedMatrix pack_quantized(Arena& arena, const GlidecapeMatrix& from,
                                      const float* bias_or_null, int outputs, int inputs,
                                      const Order& order) {
  QuantizedMatrix matrix;
  matrix.bits = from.type == GLIDECAPE_Q4_1 ? 4 : 8;
  matrix.describe(arena, bias_or_null, outputs, inputs, order);
  uint8_t* panels = arena.take<uint8_t>(matrix.num_panels() * (kPanel / 16) * matrix.strip_bytes());
  matrix.panels = panels;
  const int row_bytes = matrix.groups() * Block::size(from.type);
  const int value_bytes = QuantizedMatrix::kStrip * kGroup * matrix.bits / 8;
  for (int output = 0; output < outputs; ++output) {
    const int lane = output % 16;
    const auto* row = static_cast<const uint8_t*>(from.rows) + static_cast<int64_t>(order(output)) * row_bytes;
    uint8_t* to = panels + output / 16 * matrix.strip_bytes();
    for (int group = 0; group < matrix.groups(); ++group, to += matrix.group_bytes()) {
      const Block block = Block::read(from.type, row + group * Block::size(from.type));
      for (int i = 0; i < kGroup; ++i) place(to, matrix.bits, lane, i, block.values[i]);
      std::memcpy(to + value_bytes + 2 * lane, &block.scale, 2);
      std::memcpy(to + value_bytes + 32 + 2 * lane, &block.offset, 2);
    }
  }
  return matrix;
}

template <int Rows, int Bits>
inline void multiply_strip(const QuantizedMatrix& w, const uint8_t* strip, const QuantizedRows& x,
                           int64_t first, const char* ahead, float* out) {
  constexpr int kValueBytes = 64 * Bits;
  const int64_t stride = x.stride(), scale_stride = x.groups();
  const int8_t* values = x.row(first);
  const float *scales = x.scales(first), *sums = x.sums(first);
  Lanes totals[Rows];  // with AVX-512 in registers, if all loops over it are unrolled
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) totals[r] = all(0.0f);
  const int groups = w.groups();
  for (int group = 0; group < groups; ++group, strip += kValueBytes + 64,
           values += kGroupBytes) {
    if (ahead)
      for (int i = 0; i <= Bits; ++i, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    const Lanes scale = load_half(strip + kValueBytes), offset = load_half(strip + kValueBytes + 32);
    add_dots<Rows, Bits>(strip, values, stride, [&](int r, IntLanes dots) {
      const int64_t at = r * scale_stride + group;
      totals[r] = fma(to_floats(dots) * all(scales[at]), scale, totals[r]);
      totals[r] = fma(offset, all(sums[at]), totals[r]);
    });
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) store(out + r * kPanel, totals[r]);
}

template <int Rows>
inline void QuantizedMatrix::multiply_rows(int panel, const QuantizedRows& x, int64_t first,
                                           const char* ahead, float* out) const {
  const auto* strip = panels + panel * (kPanel / kStrip) * strip_bytes();
  for (int i = 0; i < kPanel; i += kStrip, strip += strip_bytes()) {
    if (bits == 4) multiply_strip<Rows, 4>(*this, strip, x, first, ahead, out + i);
    else multiply_strip<Rows, 8>(*this, strip, x, first, ahead, out + i);
    if (ahead) ahead += strip_bytes();
  }
}

}  // namespace glidecape
