// Conversions and e^x.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace glidecape {

inline void widen(const bf16* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store(to + i, load_bf16(from + i));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// e^x, relative error about 2e-7; 0 below -103, infinity above 104.
inline Lanes exp(Lanes x) {
  x = min(all(104.0f), max(all(-104.0f), x));  // in this order, NaN stays NaN
  const Lanes n = round(x * all(1.44269504088896341f));
  Lanes r = fnma(n, all(0.693359375f), x);
  r = fnma(n, all(-2.12194440e-4f), r);
  Lanes p = all(1.9875691500e-4f);
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = fma(p, r * r, r + all(1.0f));
  return times_power_of_two(p, n);
}

}  // namespace glidecape
