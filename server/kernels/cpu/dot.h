// The integer product of a group of 32 inputs: how its weights and activations lie in memory, and the
// sums over them. Exact, so all ways to form it agree.
//
// An activation has 8 bits, but for up to two quads of neighbours in each group, which have 15: models have
// few large values, and with one step for all of them their neighbours would be rounded away. Which
// quads are wide is each row's own affair. A wide value is 128 * high + low, high from -127 to 127, low
// from -64 to 63, and so costs one further product of 8 bits. Where a group's step hardly grows by that,
// fewer of its quads are wide (kCoarsest).
//
//   find_wide_quads(a, b)             the quads with the largest values of a group
//   in_pairs(encoding)                whether weights are multiplied in pairs of 16 bits (dot_pairs.h)
//                                     or in quads of bytes (quads.h)
//   kHasPairs, kHasQuads              whether weights of some encoding are
//   put_values(to, a, b, quads)       writes a group's integers, in both forms where there are both
//   add_dots<Rows, E, Sums>(weights, values, stride, use)
//                                     use(row, sums of 16 outputs [Sums]) for each row: a sum over
//                                     the group, or one over each half of it;
//                                     values: groups of the rows, stride bytes apart, in the form
//                                     in which weights of E are multiplied
//
// A row's group takes group_bytes(in_pairs(E)), and its weights packed_bytes(E). The two forms lie apart,
// so that those of as many rows as are multiplied at a time stay in the fastest cache.
#pragma once

#include <cstdint>

#include "encoding.h"
#include "lanes.h"

namespace glidecape {

// Quads take 43 bytes (quads.h); at multiples of 16 none lies across two cache lines.
constexpr int kPairsBytes = 2 * kGroup, kQuadsBytes = 48;

constexpr int group_bytes(bool in_pairs) { return in_pairs ? kPairsBytes : kQuadsBytes; }

// Where a group's integers are written; null for a form that is not used.
struct GroupAt {
  int8_t *pairs, *quads;
};

constexpr int kLargest = 127, kLargestWide = 127 * 128;  // integers of an activation

// A group has fewer wide quads where its step stays below so many times the one that two would allow: in
// registers of 256 bits without vpdpbusd two of them are a quarter of what a row's products take. One
// rule for all instruction sets, so that they agree.
constexpr float kCoarsest = 1.35f;

struct WideQuads {
  int first, second;    // from 0 to 7
  int count;            // how many of these two are wide, the first one first
  float largest, rest;  // absolute values: of all quads, and of those that are not wide
};

// Forms x here and now: else GCC forms many products before it adds any, and runs out of registers.
template <class Vector>
inline void settle(Vector& x) {
#if defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
}

}  // namespace glidecape

#if defined(GLIDECAPE_AVX512)
#include "dot_bytes.h"
#elif defined(__AVXVNNI__)
#include "dot_avxvnni.h"
#else
#include "dot_pairs.h"
#endif
