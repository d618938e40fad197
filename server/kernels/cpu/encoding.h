// The integers of a group of weights, 16 outputs x 32 inputs, packed and unpacked.
//
// Unpacked they are bytes, in eight quads of neighbouring inputs:
//
//            output 0              output 1            output 15
//   quad 0  [q0,0 q0,1 q0,2 q0,3 | q1,0 … q1,3 | … | q15,0 … q15,3]     inputs 0 … 3
//   quad 1   …                                                          inputs 4 … 7
//
// Packed, their lowest 4 bits come first: quads 2i and 2i + 1 share the 64 bytes of block i, in the
// low and high halves. What 5 or 6 bits have above these lies in one or two further blocks:
//
//   kFive   bit i of the bytes of block 4: of quad i
//   kSix    bits 2i and 2i + 1 of the bytes of block 4: of quad i; of block 5: of quad 4 + i
//
// 8 bits are packed as they are unpacked. Where products are formed of pairs of 16 bits (dot_pairs.h),
// a quad's inputs are in the order 0 2 1 3: a pair is two bytes that are two places apart.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "lanes.h"

namespace glidecape {

constexpr int kGroup = 32;  // neighbours of a row that are written together, and share a scale

enum class Encoding { kFour, kFive, kSix, kEight, kTable };

// Integers from -127 on that 4 bits stand for in kTable (GGUF's IQ4_NL), plus 128.
constexpr uint8_t kTableValues[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                129, 141, 153, 166, 181, 197, 217, 241};

constexpr int kHighBits = 256;  // where they begin in a packed group

constexpr int packed_bytes(Encoding encoding) {
  switch (encoding) {
    case Encoding::kFive: return kHighBits + 64;
    case Encoding::kSix: return kHighBits + 128;
    case Encoding::kEight: return 512;
    default: return kHighBits;
  }
}

// Adds a weight of output `lane`, input i, to a packed group that was zeroed.
inline void place(uint8_t* to, Encoding encoding, bool in_pairs, int lane, int i, uint8_t value) {
  constexpr int kPairOrder[4] = {0, 2, 1, 3};
  const int quad = i / 4, byte = lane * 4 + (in_pairs ? kPairOrder[i % 4] : i % 4);
  const auto add = [&](int at, int bits) { to[at + byte] |= static_cast<uint8_t>(bits); };
  if (encoding == Encoding::kEight) return add(64 * quad, value);
  add(64 * (quad / 2), (value & 15) << quad % 2 * 4);
  if (encoding == Encoding::kFive) add(kHighBits, value >> 4 << quad);
  if (encoding == Encoding::kSix) add(kHighBits + 64 * (quad / 4), value >> 4 << quad % 4 * 2);
}

// As many bytes as a register has, as 16-bit integers, which is what can be shifted.
#if defined(GLIDECAPE_AVX512)
constexpr int kUnpacked = 64;
#elif defined(__AVX2__)
constexpr int kUnpacked = 32;
#else
constexpr int kUnpacked = 16;
#endif
typedef uint16_t UnpackedBytes __attribute__((vector_size(kUnpacked)));

inline UnpackedBytes bytes_at(const uint8_t* p) {
  UnpackedBytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return bytes;
}

// Byte by byte, of indices into kTableValues.
inline UnpackedBytes look_up(UnpackedBytes indices) {
#ifdef __AVX2__
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kTableValues));
#ifdef GLIDECAPE_AVX512
  return (UnpackedBytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)indices);
#else
  return (UnpackedBytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)indices);
#endif
#else
  uint8_t bytes[kUnpacked];
  std::memcpy(bytes, &indices, sizeof bytes);
  for (uint8_t& byte : bytes) byte = kTableValues[byte];
  return bytes_at(bytes);
#endif
}

template <int Bits>
inline UnpackedBytes moved_up(UnpackedBytes bytes) {
  if constexpr (Bits >= 0) return bytes << Bits;
  else return bytes >> -Bits;
}

// kUnpacked bytes of a quad, from the byte `at` of its 64 on.
template <Encoding E, int Quad>
inline __attribute__((always_inline)) UnpackedBytes unpacked(const uint8_t* packed, int at) {
  packed += at;
  if constexpr (E == Encoding::kEight) return bytes_at(packed + 64 * Quad);
  const UnpackedBytes low = moved_up<Quad % 2 * -4>(bytes_at(packed + Quad / 2 * 64)) & 0x0f0f;
  if constexpr (E == Encoding::kTable) return look_up(low);
  if constexpr (E == Encoding::kFive)
    return low | (moved_up<4 - Quad>(bytes_at(packed + kHighBits)) & 0x1010);
  if constexpr (E == Encoding::kSix)
    return low | (moved_up<4 - Quad % 4 * 2>(bytes_at(packed + kHighBits + Quad / 4 * 64)) & 0x3030);
  return low;
}

// use(quad) for each, the quad a constant.
template <class Use, int... Quads>
inline __attribute__((always_inline)) void for_quads(std::integer_sequence<int, Quads...>, const Use& use) {
  (use(std::integral_constant<int, Quads>()), ...);
}

// A group, unpacked into memory.
template <Encoding E>
inline __attribute__((always_inline)) void unpack_group(const uint8_t* packed, uint8_t* to) {
  for_quads(std::make_integer_sequence<int, 8>(), [&](auto quad) __attribute__((always_inline)) {
    for (int at = 0; at < 64; at += kUnpacked) {
      const UnpackedBytes bytes = unpacked<E, quad>(packed, at);
      std::memcpy(to + 64 * quad + at, &bytes, sizeof bytes);
    }
  });
}

}  // namespace glidecape
