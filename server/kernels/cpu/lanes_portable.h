// lanes.h in the generic vectors of GCC and Clang: four of 4, which SSE2 and NEON have registers for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace glidecape {

#ifdef __aarch64__
constexpr int kTileLanes = 6;  // 24 of 32 registers
#else
constexpr int kTileLanes = 3;  // 12 of 16
#endif

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint16_t Short4 __attribute__((vector_size(8)));

struct Lanes {
  Float4 part[4];
};
struct IntLanes {
  Int4 part[4];
};

template <class Part>
inline Lanes lanes_of(const Part& part) {
  return {{part(0), part(1), part(2), part(3)}};
}
template <class Part>
inline IntLanes int_lanes_of(const Part& part) {
  return {{part(0), part(1), part(2), part(3)}};
}
template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <class Vector>
inline Vector load_as(const void* p) {
  Vector vector;
  std::memcpy(&vector, p, sizeof vector);
  return vector;
}
inline Float4 all_4(float x) { return Float4{x, x, x, x}; }
inline Int4 all_4(int32_t x) { return Int4{x, x, x, x}; }

inline Lanes operator+(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] + b.part[i]; });
}
inline Lanes operator-(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] - b.part[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] * b.part[i]; });
}
inline Lanes operator/(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] / b.part[i]; });
}

inline Lanes all(float x) {
  return lanes_of([&](int) { return all_4(x); });
}
// One rounding where the CPU has the instruction, two elsewhere; the same one everywhere in a build,
// because setup.py forbids the compiler to contract other expressions.
inline Float4 fma_4(Float4 a, Float4 b, Float4 c) {
#ifdef __FP_FAST_FMAF
  return Float4{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]),
                __builtin_fmaf(a[2], b[2], c[2]), __builtin_fmaf(a[3], b[3], c[3])};
#else
  return a * b + c;
#endif
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  return lanes_of([&](int i) { return fma_4(a.part[i], b.part[i], c.part[i]); });
}
inline Lanes fnma(Lanes a, Lanes b, Lanes c) {
  return lanes_of([&](int i) { return fma_4(-a.part[i], b.part[i], c.part[i]); });
}
inline Lanes min(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}
inline Lanes max(Lanes a, Lanes b) {
  return lanes_of([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
inline Lanes abs(Lanes x) {
  return lanes_of([&](int i) {
    return bits_as<Float4>(bits_as<Int4>(x.part[i]) & all_4(0x7fffffff));
  });
}

// Added to a number below 2^22 it leaves the number's whole part in the lowest bits, rounded to the
// nearest, ties to even.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
inline Lanes round(Lanes x) { return x + all(kRounder) - all(kRounder); }
inline IntLanes to_ints(Lanes x) {
  const Int4 zero = bits_as<Int4>(all_4(kRounder));
  return int_lanes_of([&](int i) { return bits_as<Int4>(x.part[i] + all_4(kRounder)) - zero; });
}

inline float sum(Lanes x) {
  const Float4 four = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
inline float largest(Lanes x) {
  float found = x.part[0][0];
  for (const Float4& part : x.part)
    for (int i = 0; i < 4; ++i) found = std::max(found, part[i]);
  return found;
}

inline Lanes load(const float* p) {
  return lanes_of([&](int i) { return load_as<Float4>(p + 4 * i); });
}
inline Lanes load_first(const float* p, int count, float rest) {
  if (count >= 16) return load(p);
  float some[16];
  std::fill(std::copy_n(p, count, some), some + 16, rest);
  return load(some);
}
inline Int4 widened(const void* four_shorts) {
#ifdef __SSE2__  // GCC takes three times the instructions for the conversion
  const __m128i shorts = _mm_loadl_epi64(static_cast<const __m128i*>(four_shorts));
  return bits_as<Int4>(_mm_unpacklo_epi16(shorts, _mm_setzero_si128()));
#else
  return __builtin_convertvector(load_as<Short4>(four_shorts), Int4);
#endif
}
inline Lanes load(const bf16* p) {
  return lanes_of([&](int i) { return bits_as<Float4>(widened(p + 4 * i) << 16); });
}
// A half's bits, moved to a float's places, are the number times 2^-112; but for infinity and NaN,
// which come out as 65536 and more.
inline Lanes load_half(const uint8_t* p) {
  return lanes_of([&](int i) {
    const Int4 half = widened(p + 8 * i);
    const Float4 number = bits_as<Float4>((half & all_4(0x7fff)) << 13) * all_4(0x1p112f);
    const Int4 special = (number >= all_4(65536.0f)) & all_4(0x7f800000);
    return bits_as<Float4>(bits_as<Int4>(number) | special | (half & all_4(0x8000)) << 16);
  });
}
inline Lanes load_bytes(const uint8_t* p) {
  return lanes_of([&](int i) {
    const uint8_t* four = p + 4 * i;
    return Float4{float(four[0]), float(four[1]), float(four[2]), float(four[3])};
  });
}
inline void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof x); }

// To the nearest, ties to even.
inline void store(bf16* p, Lanes x) {
  for (int i = 0; i < 4; ++i) {
    const Int4 bits = bits_as<Int4>(x.part[i]), odd = (bits >> 16) & all_4(1);
    // As unsigned: a NaN's bits plus 0x7fff can be too large for an int.
    typedef uint32_t Unsigned4 __attribute__((vector_size(16)));
    const auto up = bits_as<Int4>(bits_as<Unsigned4>(bits) + bits_as<Unsigned4>(odd + all_4(0x7fff)));
    const Int4 nan = x.part[i] != x.part[i];
    const Int4 rounded = (nan & (bits | all_4(0x400000))) | (~nan & up);
    const Short4 upper = __builtin_convertvector(bits_as<Unsigned4>(rounded) >> 16, Short4);
    std::memcpy(p + 4 * i, &upper, sizeof upper);
  }
}

inline bool any(Int4 mask) {
  const auto words = bits_as<std::uint64_t __attribute__((vector_size(16)))>(mask);
  return (words[0] | words[1]) != 0;
}
inline unsigned greater(Lanes a, Lanes b) {
  unsigned bits = 0;
  for (int i = 0; i < 4; ++i) {
    const Int4 mask = a.part[i] > b.part[i];
    if (!any(mask)) continue;
    for (int j = 0; j < 4; ++j) bits |= (mask[j] & 1u) << (4 * i + j);
  }
  return bits;
}
inline bool unordered(Lanes a, Lanes b) {
  Int4 mask{};
  for (int i = 0; i < 4; ++i) mask |= (a.part[i] != a.part[i]) | (b.part[i] != b.part[i]);
  return any(mask);
}

inline IntLanes load_ints(const void* p) {
  const auto* from = static_cast<const char*>(p);
  return int_lanes_of([&](int i) { return load_as<Int4>(from + 16 * i); });
}
inline Lanes to_floats(IntLanes x) {
  return lanes_of([&](int i) { return __builtin_convertvector(x.part[i], Float4); });
}
inline int sum(IntLanes x) {
  const Int4 four = x.part[0] + x.part[1] + x.part[2] + x.part[3];
  return four[0] + four[1] + four[2] + four[3];
}
inline void store_shorts(int16_t* p, IntLanes x) {
  for (int i = 0; i < 4; ++i) {
    const Short4 shorts = __builtin_convertvector(x.part[i], Short4);
    std::memcpy(p + 4 * i, &shorts, sizeof shorts);
  }
}

// In two steps, because 2^-150 and 2^150 are no floats. One rounding all the same: the first product
// is exact.
inline Lanes times_power_of_two(Lanes x, Lanes n) {
  const IntLanes whole = to_ints(n);
  return lanes_of([&](int i) {
    const auto to_power = [](Int4 exponent) {
      return bits_as<Float4>((exponent + all_4(127)) << 23);
    };
    const Int4 half = whole.part[i] >> 1;
    return x.part[i] * to_power(half) * to_power(whole.part[i] - half);
  });
}

inline Lanes low_bf16(IntLanes pairs) {
  return lanes_of([&](int i) { return bits_as<Float4>(pairs.part[i] << 16); });
}
inline Lanes high_bf16(IntLanes pairs) {
  const Int4 high = all_4(static_cast<int32_t>(0xffff0000u));
  return lanes_of([&](int i) { return bits_as<Float4>(pairs.part[i] & high); });
}

inline void turn_keys(const bf16* const* keys, float* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) {
    for (int d = 0; d < 32; d += 4) {
      const Int4 bits = widened(keys[i] + d) << 16;
      for (int j = 0; j < 4; ++j) to[(d + j) * stride + i] = bits_as<Float4>(bits)[j];
    }
  }
}

inline void turn_keys(const float* const* keys, float* to, int64_t stride) {
  for (int i = 0; i < 16; ++i)
    for (int d = 0; d < 32; ++d) to[d * stride + i] = keys[i][d];
}

}  // namespace glidecape
