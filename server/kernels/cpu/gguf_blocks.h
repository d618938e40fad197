// GGUF's blocks of quantised weights: what types there are, and how their bytes are read.
//
// A block is 1 or 8 groups of 32 inputs of one row. A weight is scale * q + offset, where a group's
// scale and offset are
//
//   kOffset   two halves of the block's                                       Q4_1, Q5_1
//   kMiddle   a half, and -middle times it: q - middle is signed              Q4_0, Q5_0, Q8_0, IQ4_NL
//   kSuper    two halves of the block times 6-bit integers of the group       Q4_K, Q5_K
//   kHalves   as kMiddle, but the half is multiplied with an 8-bit integer    Q6_K
//             of each half group
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "decoder.h"
#include "encoding.h"

namespace glidecape {

enum class Scaling { kOffset, kMiddle, kSuper, kHalves };

struct BlockType {
  Encoding encoding;
  Scaling scaling;
  int bytes, groups;
  int middle;  // the q that stands for 0
};

constexpr BlockType block_type(int type) {
  switch (type) {
    case GLIDECAPE_Q4_0: return {Encoding::kFour, Scaling::kMiddle, 18, 1, 8};
    case GLIDECAPE_Q4_1: return {Encoding::kFour, Scaling::kOffset, 20, 1, 0};
    case GLIDECAPE_Q5_0: return {Encoding::kFive, Scaling::kMiddle, 22, 1, 16};
    case GLIDECAPE_Q5_1: return {Encoding::kFive, Scaling::kOffset, 24, 1, 0};
    case GLIDECAPE_IQ4_NL: return {Encoding::kTable, Scaling::kMiddle, 18, 1, 128};
    case GLIDECAPE_Q4_K: return {Encoding::kFour, Scaling::kSuper, 144, 8, 0};
    case GLIDECAPE_Q5_K: return {Encoding::kFive, Scaling::kSuper, 176, 8, 0};
    case GLIDECAPE_Q6_K: return {Encoding::kSix, Scaling::kHalves, 210, 8, 32};
    default: return {Encoding::kEight, Scaling::kMiddle, 34, 1, 128};
  }
}

// A block, its integers a byte each and in order.
struct Block {
  static constexpr int kGroups = 8;

  uint8_t values[kGroups * kGroup];
  uint16_t scale, offset = 0;  // half precision
  // kSuper: what scale and offset are multiplied with, per group. kHalves: scale, per half group, plus
  // 128.
  uint8_t scales[2 * kGroups], offsets[kGroups];

  static Block read(int type, const uint8_t* from) {
    Block block;
    switch (type) {
      case GLIDECAPE_Q4_0: case GLIDECAPE_Q4_1: case GLIDECAPE_IQ4_NL:
      case GLIDECAPE_Q5_0: case GLIDECAPE_Q5_1: block.read_group(block_type(type), from); break;
      case GLIDECAPE_Q4_K: case GLIDECAPE_Q5_K: block.read_super(block_type(type), from); break;
      case GLIDECAPE_Q6_K: block.read_six(from); break;
      default: block.read_bytes(from);
    }
    return block;
  }

 private:
  // scale | offset, of some | high bits [4], of 5 bits | halves [16]: 0 … 15 low, 16 … 31 high
  void read_group(const BlockType& type, const uint8_t* from) {
    std::memcpy(&scale, from, 2);
    from += 2;
    if (type.scaling == Scaling::kOffset) {
      std::memcpy(&offset, from, 2);
      from += 2;
    }
    uint32_t high = 0;
    if (type.encoding == Encoding::kFive) {
      std::memcpy(&high, from, 4);
      from += 4;
    }
    for (int i = 0; i < kGroup; ++i) {
      const int low = i < 16 ? from[i] & 15 : from[i - 16] >> 4;
      values[i] = static_cast<uint8_t>(low | (high >> i & 1) << 4);
    }
  }

  // scale | signed bytes [32]
  void read_bytes(const uint8_t* from) {
    std::memcpy(&scale, from, 2);
    for (int i = 0; i < kGroup; ++i) values[i] = from[2 + i] ^ 0x80;
  }

  // scale | minus offset | 6-bit integers [12] | high bits [32], of 5 bits: bit g of group g
  // | halves [128]: 32 bytes for two groups, low halves and high halves
  void read_super(const BlockType& type, const uint8_t* from) {
    std::memcpy(&scale, from, 2);
    std::memcpy(&offset, from + 2, 2);
    offset ^= 0x8000;
    read_integers(from + 4);
    const bool has_high = type.encoding == Encoding::kFive;
    const uint8_t *high = from + 16, *halves = high + (has_high ? 32 : 0);
    for (int group = 0; group < kGroups; ++group) {
      for (int i = 0; i < kGroup; ++i) {
        const int low = halves[group / 2 * 32 + i] >> group % 2 * 4 & 15;
        const int above = has_high ? high[i] >> group & 1 : 0;
        values[group * kGroup + i] = static_cast<uint8_t>(low | above << 4);
      }
    }
  }

  // 6 bits of scales 0 … 3 | 6 bits of offsets 0 … 3 | low halves: 4 bits of scales 4 … 7, high ones: of
  // offsets 4 … 7. The top bits of these are those that the first eight bytes have to spare.
  void read_integers(const uint8_t* from) {
    for (int i = 0; i < 4; ++i) {
      scales[i] = from[i] & 63;
      offsets[i] = from[4 + i] & 63;
      scales[4 + i] = static_cast<uint8_t>((from[8 + i] & 15) | from[i] >> 6 << 4);
      offsets[4 + i] = static_cast<uint8_t>(from[8 + i] >> 4 | from[4 + i] >> 6 << 4);
    }
  }

  // halves [128] | 2 bits each [64] | signed scales [16] | scale. Four groups share 64 bytes of halves, low
  // ones of groups 0 and 1 and high ones of groups 2 and 3, and 32 bytes of two bits for each.
  void read_six(const uint8_t* from) {
    std::memcpy(&scale, from + 208, 2);
    for (int i = 0; i < 2 * kGroups; ++i) scales[i] = from[192 + i] ^ 0x80;
    for (int group = 0; group < kGroups; ++group) {
      const int part = group / 4, quarter = group % 4;
      const uint8_t *halves = from + 64 * part + 32 * (quarter % 2), *high = from + 128 + 32 * part;
      for (int i = 0; i < kGroup; ++i) {
        const int low = halves[i] >> quarter / 2 * 4 & 15, above = high[i] >> 2 * quarter & 3;
        values[group * kGroup + i] = static_cast<uint8_t>(low | above << 4);
      }
    }
  }
};

}  // namespace glidecape
