// The scales and offsets of a strip's weights (16 outputs), packed and as floats.
//
//   kOffset   per group   scales [16] | offsets [16]
//   kMiddle   per group   scales [16]
//   kSuper    per block   scales [16] | offsets [16] | per group: bytes for scales [16] | for offsets [16]
//   kHalves   per block   scales [16] | per group: bytes for the first half's [16] | for the second's [16]
//
// Scales and offsets are half precision as in the file; a product with a byte is exact in a float.
#pragma once

#include <cstring>

#include "gguf_blocks.h"
#include "lanes.h"

namespace glidecape {

constexpr int kLaneHalves = 32, kGroupIntegers = 32;  // bytes of 16 halves; of a group's 2 x 16 bytes

// Halves [16] at the beginning of what a block has.
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
  alignas(64) float scale[Parts][16], offset[Parts][16];

  void set(int part, Lanes new_scale, Lanes new_offset) {
    store(scale[part], new_scale);
    store(offset[part], new_offset);
  }
};

// Reads a strip's scales and offsets as floats, group after group.
class ScaleReader {
 public:
  // Several at a time by a function of its own, so that what tells the scalings apart takes no registers
  // from the products; but registers of 16 floats are many, and slow to store.
#ifdef GLIDECAPE_AVX512
#define GLIDECAPE_READS __attribute__((always_inline))
  static constexpr int kAtOnce = 1;
#else
#define GLIDECAPE_READS __attribute__((noinline))
  static constexpr int kAtOnce = 8;
#endif

  ScaleReader(const BlockType& type, const uint8_t* scales)
      : scaling_(type.scaling), halves_(scales), middle_(static_cast<float>(-type.middle)),
        integers_(scales + num_halves(type.scaling) * kLaneHalves), last_(integers_ + 7 * kGroupIntegers) {}

  template <int Parts>
  GLIDECAPE_READS void read(int count, GroupScales<Parts>* to) {
    if constexpr (Parts == 1) {
      if (scaling_ == Scaling::kOffset) return read_with_offsets(count, to);
    }
    for (int i = 0; i < count; ++i) read_one(to[i]);
  }
#undef GLIDECAPE_READS

 private:
  // In a loop of its own, with its place in a register: a store to floats may reach this object, as far
  // as GCC knows.
  __attribute__((always_inline)) void read_with_offsets(int count, GroupScales<1>* to) {
    const uint8_t* from = halves_;
    halves_ += 2 * kLaneHalves * count;
    for (; count > 0; --count, ++to, from += 2 * kLaneHalves)
      to->set(0, load_half(from), load_half(from + kLaneHalves));
  }

  __attribute__((always_inline)) void read_one(GroupScales<2>& to) {
    const Lanes scale = load_half(halves_), bias = all(128.0f);
    for (int half = 0; half < 2; ++half) {
      const Lanes of_half = scale * (load_bytes(integers_ + 16 * half) - bias);
      to.set(half, of_half, of_half * all(middle_));
    }
    to_next_group(kLaneHalves);
  }

  __attribute__((always_inline)) void read_one(GroupScales<1>& to) {
    const Lanes scale = load_half(halves_);
    if (scaling_ == Scaling::kSuper) {
      const Lanes offset = load_half(halves_ + kLaneHalves);
      to.set(0, scale * load_bytes(integers_), offset * load_bytes(integers_ + 16));
      to_next_group(2 * kLaneHalves);
    } else {
      to.set(0, scale, scale * all(middle_));
      halves_ += kLaneHalves;
    }
  }

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
  const float middle_;
  const uint8_t *integers_, *last_;  // of the group, and of the block's last group
};

}  // namespace glidecape
