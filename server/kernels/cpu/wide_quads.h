// A group's wide quads (dot.h) found one by one, for all instruction sets but AVX-512, which has its own
// way in dot_bytes.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace glidecape {

inline WideQuads find_wide_quads(Lanes a, Lanes b) {
  alignas(64) float values[kGroup];
  store(values, abs(a));
  store(values + 16, abs(b));
  int32_t keys[8];
  for (int quad = 0; quad < 8; ++quad) {
    const float* four = values + 4 * quad;
    const float most = std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
    std::memcpy(&keys[quad], &most, sizeof most);
    keys[quad] = (keys[quad] & ~7) | quad;
  }
  const auto take = [&keys] {
    int32_t* most = std::max_element(keys, keys + 8);
    return std::exchange(*most, 0);
  };
  const int32_t first = take(), second = take(), rest = take();
  return WideQuads::of_keys(first, second, rest);
}

}  // namespace glidecape
