// How a group lies in memory where its products are of bytes, four neighbours at a time. Of a row:
//
//   low [32] | high of the first wide quad [4], of the second [4] | their numbers [2]
//
// Its weights, four inputs to a lane:
//
//            output 0              output 1            output 15
//   vector 0 [q0,0 q0,1 q0,2 q0,3 | q1,0 … q1,3 | … | q15,0 … q15,3]        inputs 0 … 3
//   vector 1 …                                                             inputs 4 … 7
//   …                                                                      (8 vectors)
//
// With 4 bits, vectors 2i and 2i + 1 share their bytes: low halves and high halves.
#pragma once

#include <cstdint>

namespace glidecape {

constexpr int kHighAt = kGroup, kQuadsAt = kGroup + 8, kQuadsBytes = 48;

inline void place_in_quads(uint8_t* to, int bits, int lane, int i, uint8_t value) {
  const int vector = i / 4, byte = lane * 4 + i % 4;
  if (bits == 8) to[vector * 64 + byte] = value;
  else to[vector / 2 * 64 + byte] |= static_cast<uint8_t>(value << (vector % 2 * 4));
}

}  // namespace glidecape
