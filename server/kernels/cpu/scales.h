// The scales and offsets of a strip's weights (16 outputs), packed and as floats.
//
//   kOffset   per group   scales [16] | offsets [16]
//   kMiddle   per group   scales [16]
//   kSuper    per block   scales [16] | offsets [16] | per group: bytes for scales [16] | for offsets [16]
//   kHalves   per block   scales [16] | per group: bytes for the first half's [16] | for the second's [16]
//
// Scales and offsets are half precision as in the file; a product with a byte is exact in a float.
#pragma once

#include "gguf_blocks.h"
#include "lanes.h"

namespace glidecape {

constexpr int kLaneHalves = 32, kGroupIntegers = 32;  // bytes of 16 halves; of a group's 2 x 16 bytes

// Halves [16] at the begin of what a block has.
constexpr int num_halves(Scaling scaling) {
  return scaling == Scaling::kOffset || scaling == Scaling::kSuper ? 2 : 1;
}

constexpr int scale_bytes(const BlockType& type) {
  const bool has_integers = type.groups > 1;
  return num_halves(type.scaling) * kLaneHalves + (has_integers ? type.groups * kGroupIntegers : 0);
}

// to: a block's scales.
inline void place_scales(uint8_t* to, const BlockType& type, int lane, const Block& block) {
  std::memcpy(to + 2 * lane, &block.scale, 2);
  if (num_halves(type.scaling) == 2) std::memcpy(to + kLaneHalves + 2 * lane, &block.offset, 2);
  if (type.groups == 1) return;
  uint8_t* integers = to + num_halves(type.scaling) * kLaneHalves + lane;
  for (int group = 0; group < type.groups; ++group, integers += kGroupIntegers) {
    const bool halves = type.scaling == Scaling::kHalves;
    integers[0] = block.scales[halves ? 2 * group : group];
    integers[16] = halves ? block.scales[2 * group + 1] : block.offsets[group];
  }
}

// Of a group, or of each of its halves.
template <int Parts>
struct GroupScales {
  Lanes scale[Parts], offset[Parts];
};

// Reads a strip's scales and offsets as floats, group after group.
class ScaleReader {
 public:
  ScaleReader(const BlockType& type, const uint8_t* scales)
      : scaling_(type.scaling), halves_(scales), middle_(all(-static_cast<float>(type.middle))),
        integers_(scales + num_halves(type.scaling) * kLaneHalves), last_(integers_ + 7 * kGroupIntegers) {}

  template <int Parts>
  __attribute__((always_inline)) GroupScales<Parts> next() {
    if constexpr (Parts == 2) {
      const Lanes scale = load_half(halves_), bias = all(128.0f);
      const Lanes first = scale * (load_bytes(integers_) - bias);
      const Lanes second = scale * (load_bytes(integers_ + 16) - bias);
      to_next_group(kLaneHalves);
      return {{first, second}, {first * middle_, second * middle_}};
    } else if (scaling_ == Scaling::kSuper) {
      const Lanes scale = load_half(halves_) * load_bytes(integers_);
      const Lanes offset = load_half(halves_ + kLaneHalves) * load_bytes(integers_ + 16);
      to_next_group(2 * kLaneHalves);
      return {{scale}, {offset}};
    } else {
      const uint8_t* from = halves_;
      const Lanes scale = load_half(from);
      const bool stored = scaling_ == Scaling::kOffset;
      halves_ += stored ? 2 * kLaneHalves : kLaneHalves;
      return {{scale}, {stored ? load_half(from + kLaneHalves) : scale * middle_}};
    }
  }

 private:
  // of_block: bytes of what comes before the groups' integers.
  void to_next_group(int of_block) {
    const bool ends = integers_ == last_;
    integers_ += kGroupIntegers;
    if (!ends) return;
    halves_ = integers_;
    integers_ += of_block;
    last_ = integers_ + 7 * kGroupIntegers;
  }

  const Scaling scaling_;
  const uint8_t* halves_;  // of the block
  const Lanes middle_;
  const uint8_t *integers_, *last_;  // of the group, and of the block's last group
};

}  // namespace glidecape
