// The integer product of a group of 32 inputs: how its weights and activations lie in memory, and the
// sums over them. Exact, so all ways to form it agree.
//
//   put_12_bits(x, group, first)      writes activations first … first + 15 of a group
//   place(to, bits, lane, i, value)   adds a weight of output `lane`, input i, to a zeroed group
//   add_dots<Rows, Bits>(weights, values, stride, use)
//                                     use(row, sums over the group of 16 outputs) for each row;
//                                     values: groups of the rows, stride bytes apart
//
// A group takes 2 bytes per activation, and its weights bits / 8 bytes each.
#pragma once

#include "lanes.h"

namespace glidecape {

constexpr int kGroup = 32;  // neighbours of a row that are written together, and share a scale

}  // namespace glidecape

#ifdef GLIDECAPE_AVX512
#include "dot_bytes.h"
#else
#include "dot_pairs.h"
#endif
