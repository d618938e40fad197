// The products of matmul_quantized.h, compiled once for all who multiply.
#include "matmul_quantized.h"

#include <algorithm>
#include <type_traits>

#include "scales.h"

namespace glidecape {

int64_t Strip::value_bytes(int type, int inputs) {
  return static_cast<int64_t>(inputs / kGroup) * packed_bytes(block_type(type).encoding);
}

int64_t Strip::bytes(int type, int inputs) {
  const BlockType blocks = block_type(type);
  const int64_t num_blocks = inputs / (blocks.groups * kGroup);
  // To a cache line's end.
  return (value_bytes(type, inputs) + num_blocks * scale_bytes(blocks) + 63) / 64 * 64;
}

BlockRow block_row(const GlidecapeMatrix& matrix, int row, int inputs) {
  const GlidecapeRows* part = matrix.parts;
  for (; row >= part->count; ++part) row -= part->count;
  const BlockType blocks = block_type(part->type);
  const int64_t row_bytes = static_cast<int64_t>(inputs) / (blocks.groups * kGroup) * blocks.bytes;
  return {part->type, static_cast<const uint8_t*>(part->rows) + row * row_bytes};
}

void pack_row(const BlockRow& row, int inputs, int lane, uint8_t* strip) {
  const BlockType blocks = block_type(row.type);
  uint8_t *values = strip, *scales = strip + Strip::value_bytes(row.type, inputs);
  const uint8_t* from = row.blocks;
  for (int i = 0; i < inputs; i += blocks.groups * kGroup, from += blocks.bytes) {
    const Block block = Block::read(row.type, from);
    for (int group = 0; group < blocks.groups; ++group, values += packed_bytes(blocks.encoding)) {
      for (int j = 0; j < kGroup; ++j)
        place(values, blocks.encoding, in_pairs(blocks.encoding), lane, j, block.values[group * kGroup + j]);
    }
    place_scales(scales, blocks, lane, block);
    scales += scale_bytes(blocks);
  }
}

namespace {

// Not inlined: those of all encodings in one function would get fewer registers each.
template <int Rows, Encoding E>
__attribute__((noinline)) void multiply_strip(const Strip& strip, int inputs, const QuantizedRows& x,
                                              int64_t first, const char* ahead, float* out) {
  constexpr int kParts = E == Encoding::kSix ? 2 : 1;  // that have a scale of their own
  const uint8_t* weights = strip.begin;
  ScaleReader weight_scales(block_type(strip.type), weights + Strip::value_bytes(strip.type, inputs));
  const int64_t stride = x.stride<E>(), groups = x.groups();
  const int8_t* values = x.row<E>(first);
  const float *scales = x.scales(first), *sums = kParts == 2 ? x.half_sums(first) : x.sums(first);
  GroupScales<kParts> some[ScaleReader::kAtOnce];
  Lanes totals[Rows];  // with AVX-512 in registers, if all loops over it are unrolled
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) totals[r] = all(0.0f);
  for (int group = 0; group < groups; ++group, weights += packed_bytes(E), values += group_bytes(in_pairs(E))) {
    if (ahead)
      for (int i = 0; i <= packed_bytes(E) / 64; ++i, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    const int at_once = group % ScaleReader::kAtOnce;
    if (at_once == 0) weight_scales.read(std::min<int>(groups - group, ScaleReader::kAtOnce), some);
    const GroupScales<kParts>& of = some[at_once];
    add_dots<Rows, E, kParts>(weights, values, stride, [&](int r, const IntLanes* dots) {
      const int64_t at = r * groups + group;
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        totals[r] = fma(to_floats(dots[part]) * all(scales[at]), load(of.scale[part]), totals[r]);
        totals[r] = fma(load(of.offset[part]), all(sums[kParts * at + part]), totals[r]);
      }
    });
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) store(out + r * kPanel, totals[r]);
}

}  // namespace

template <int Rows>
void QuantizedMatrix::multiply_rows(Outputs which, const QuantizedRows& x, int64_t first,
                                    const char* ahead, float* out) const {
  const Strip* const of_first = strips + which.first / Strip::kOutputs;
  for (int i = 0; i < which.count / Strip::kOutputs; ++i, out += Strip::kOutputs) {
    const Strip& strip = of_first[i];
    const auto multiply = [&](auto encoding) {
      multiply_strip<Rows, encoding>(strip, inputs, x, first, ahead, out);
    };
    using E = Encoding;
    switch (block_type(strip.type).encoding) {
      case E::kFour: multiply(std::integral_constant<E, E::kFour>()); break;
      case E::kFive: multiply(std::integral_constant<E, E::kFive>()); break;
      case E::kSix: multiply(std::integral_constant<E, E::kSix>()); break;
      case E::kEight: multiply(std::integral_constant<E, E::kEight>()); break;
      case E::kTable: multiply(std::integral_constant<E, E::kTable>()); break;
    }
    if (ahead) ahead += Strip::bytes(strip.type, inputs);
  }
}

#define GLIDECAPE_ROWS(Rows)                                                                     \
  template void QuantizedMatrix::multiply_rows<Rows>(Outputs, const QuantizedRows&, int64_t, const char*, \
                                                     float*) const;
GLIDECAPE_ROWS(1) GLIDECAPE_ROWS(2) GLIDECAPE_ROWS(3) GLIDECAPE_ROWS(4)
GLIDECAPE_ROWS(5) GLIDECAPE_ROWS(6) GLIDECAPE_ROWS(7) GLIDECAPE_ROWS(8)
GLIDECAPE_ROWS(9) GLIDECAPE_ROWS(10) GLIDECAPE_ROWS(11) GLIDECAPE_ROWS(12)
GLIDECAPE_ROWS(13) GLIDECAPE_ROWS(14) GLIDECAPE_ROWS(15) GLIDECAPE_ROWS(16)
#undef GLIDECAPE_ROWS
static_assert(QuantizedMatrix::kTileRows == 16, "one for each number of rows");

}  // namespace glidecape
