// How a row's group lies in memory where its products are of bytes, four neighbours at a time:
//
//   low [32] | high of the first wide quad [4], of the second [4] | their numbers [2] | how many are wide
//
// High bytes of a quad that is not wide after all are 0.
//
// The quads of unpacked weights (encoding.h) are the other operands.
#pragma once

#include "encoding.h"

namespace glidecape {

constexpr int kHighAt = kGroup, kQuadsAt = kGroup + 8, kCountAt = kGroup + 10;

}  // namespace glidecape
