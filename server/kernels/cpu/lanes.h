// Sixteen floats or 32-bit integers at once, with the operations that the kernels are written in.
//
// The library is compiled once per instruction set (setup.py), and these are all that differs, beside
// the integer product (dot.h):
//
//   lanes_avx512.h    one register of 16       AVX-512 VNNI
//   lanes_avx2.h      two registers of 8       AVX2, FMA, F16C; with AVX-VNNI or without
//   lanes_portable.h  four registers of 4      the compiler's generic vectors
//
// In each:
//
//   kTileLanes                 sums that fit the registers beside what a product's inner loop reads
//   Lanes, + - * /             16 floats
//   all(x) fma(a, b, c)        x everywhere; a b + c; fnma: c - a b
//   min max                    b where one is NaN
//   load(p) of floats or bfloat16, load_half load_bytes (not negative), load_first(p, count, rest), store(p, x)
//   sum largest                over the 16, in one fixed order
//   round                      to the nearest integer, ties to even; below 2^22
//   times_power_of_two(x, n)   x 2^n for whole n from -150 to 150
//   greater(a, b)              bit i: whether it holds of lane i
//   unordered(a, b)            whether there is a NaN
//   IntLanes, to_ints          rounded as by `round`; to_floats, sum
//   low_bf16 high_bf16         floats of the lower and upper halves of 32 bits
//   turn_keys(keys, to, stride) 16 rows of 32 bfloat16 or floats -> 32 rows of 16 floats, stride apart
#pragma once

#include <cstdint>
#include <cstring>

namespace glidecape {

using bf16 = uint16_t;

}  // namespace glidecape

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#define GLIDECAPE_AVX512 1
#include "lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "lanes_avx2.h"
#else
#include "lanes_portable.h"
#endif
