// Conversions, e^x and tanh.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace glidecape {

inline void widen(const bf16* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store(to + i, load(from + i));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// e^x = 2^n e^r
struct ReducedExponent {
  Lanes n;     // whole
  Lanes r;     // at most ln(2) / 2 from 0
  Lanes rest;  // (e^r - 1 - r) / r^2
};

inline ReducedExponent reduce_exponent(Lanes x) {
  const Lanes n = round(x * all(1.44269504088896341f));
  Lanes r = fnma(n, all(0.693359375f), x);
  r = fnma(n, all(-2.12194440e-4f), r);
  Lanes p = all(1.9875691500e-4f);
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  return {n, r, p};
}

// e^x, relative error about 2e-7; 0 below -103, infinity above 104.
inline Lanes exp(Lanes x) {
  // In this order, NaN stays NaN.
  const ReducedExponent e = reduce_exponent(min(all(104.0f), max(all(-104.0f), x)));
  return times_power_of_two(fma(e.rest, e.r * e.r, e.r + all(1.0f)), e.n);
}

// Relative error about 3e-7, near 0 too: with m = e^2x - 1, worked out as such, it is m / (m + 2).
inline Lanes tanh(Lanes x) {
  const Lanes bounded = min(all(10.0f), max(all(-10.0f), x));  // beyond, it is 1
  const ReducedExponent e = reduce_exponent(bounded + bounded);
  const Lanes power = times_power_of_two(all(1.0f), e.n);
  const Lanes m = fma(fma(e.rest, e.r * e.r, e.r), power, power - all(1.0f));
  return m / (m + all(2.0f));
}

}  // namespace glidecape
