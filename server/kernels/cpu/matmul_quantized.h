// y = x W^T for W of 4 or 8 bits and x of 12 bits, both in groups of 32 inputs with a scale each.
//
// A weight is scale * q + offset with q from 0 to 15 or 255, as GGUF's Q4_1 and Q8_0 blocks have it
// (Q8_0: q = value + 128, offset = -128 * scale). One group of one row is then
//
//   sum w x = scale_w scale_x (sum q x) + offset (scale_x sum x)
//
// with an exact integer sum, by vpdpbusd over the high and over the low bytes of x. W is packed in panels of 64 outputs, a panel in four strips
// of 16; of a strip, one group of inputs after another:
//
//            output 0              output 1            output 15
//   vector 0 [q0,0 q0,1 q0,2 q0,3 | q1,0 … q1,3 | … | q15,0 … q15,3]        inputs 0 … 3
//   vector 1 …                                                             inputs 4 … 7
//   …                                                                      (8 vectors)
//   scales [16] half precision, offsets [16] half precision
//
// With 4 bits, vectors 2i and 2i + 1 share their bytes: low halves and high halves. A tile is up to
// 16 rows x 16 outputs: the weights of a group are unpacked once, and used by all rows. A row's sum is
// formed group by group in this order, whatever the number of rows.
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
      block.offset = _cvtss_sh(-128.0f * _cvtsh_ss(block.scale), _MM_FROUND_TO_NEAREST_INT);
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
      for (int i = 0; i < kGroup; ++i) {
        const int vector = i / 4, byte = lane * 4 + i % 4;
        if (matrix.bits == 8) to[vector * 64 + byte] = block.values[i];
        else to[vector / 2 * 64 + byte] |= block.values[i] << (vector % 2 * 4);
      }
      std::memcpy(to + value_bytes + 2 * lane, &block.scale, 2);
      std::memcpy(to + value_bytes + 32 + 2 * lane, &block.offset, 2);
    }
  }
  return matrix;
}

// The 8 vectors of a group's weights.
template <int Bits>
inline void unpack(const uint8_t* from, __m512i weights[8]) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int i = 0; i < Bits; ++i) {
    const __m512i bytes = _mm512_loadu_si512(from + 64 * i);
    if constexpr (Bits == 8) {
      weights[i] = bytes;
    } else {
      weights[2 * i] = _mm512_and_si512(bytes, low);
      weights[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    }
  }
}

// Four neighbours for every lane; becomes a memory operand of vpdpbusd.
inline __m512i four_of(const int8_t* values) {
  int32_t four;
  std::memcpy(&four, values, sizeof four);
  return _mm512_set1_epi32(four);
}

template <int Rows, int Bits>
inline void multiply_strip(const QuantizedMatrix& w, const uint8_t* strip, const QuantizedRows& x,
                           int64_t first, const char* ahead, float* out) {
  constexpr int kValueBytes = 64 * Bits;
  const int64_t stride = x.stride(), scale_stride = x.groups();
  const int8_t* values = x.row(first);
  const float *scales = x.scales(first), *sums = x.sums(first);
  __m512 totals[Rows];  // in registers, if all loops over it are unrolled
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) totals[r] = _mm512_setzero_ps();
  const int groups = w.groups();
  for (int group = 0; group < groups; ++group, strip += kValueBytes + 64,
           values += QuantizedRows::kGroupBytes) {
    if (ahead)
      for (int i = 0; i <= Bits; ++i, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    __m512i weights[8];
    unpack<Bits>(strip, weights);
    const auto* halves = reinterpret_cast<const __m256i*>(strip + kValueBytes);
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(halves));
    const __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(halves + 1));
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
      const int8_t* bytes = values + r * stride;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        high = _mm512_dpbusd_epi32(high, weights[i], four_of(bytes + 4 * i));
        low = _mm512_dpbusd_epi32(low, weights[i], four_of(bytes + kGroup + 4 * i));
      }
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 4), low));
      const int64_t at = r * scale_stride + group;
      totals[r] = _mm512_fmadd_ps(_mm512_mul_ps(sum, _mm512_set1_ps(scales[at])), scale, totals[r]);
      totals[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sums[at]), totals[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) _mm512_storeu_ps(out + r * kPanel, totals[r]);
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
