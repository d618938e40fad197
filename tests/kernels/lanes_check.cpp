// Every operation of lanes.h and dot.h against plain C++, for the instruction set it is compiled for,
// in buffers of exactly the promised size. Built by test_sanitizers.py.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "dot.h"
#include "units.h"
#include "vector_math.h"

using namespace glidecape;

namespace {

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) {                                                  \
      std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition);       \
      std::abort();                                                      \
    }                                                                    \
  } while (false)

using Floats = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
float of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
Floats stored(Lanes x) {
  Floats all(16);
  store(all.data(), x);
  return all;
}
bool same(float a, float b) { return std::isnan(a) ? std::isnan(b) : bits_of(a) == bits_of(b); }

// Where halves, powers, signs and specials meet.
Floats numbers() {
  Floats all{0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 1.5f, 2.5f, -2.5f, 1e-40f, -1e-40f, 3e38f, -3e38f,
             kInfinity, -kInfinity, kNaN, of_bits(0x7f800001), of_bits(0x3f808000),
             of_bits(0x3f818000), of_bits(0x7f7fffff), of_bits(0xffffffff)};
  std::mt19937 engine{1};
  while (all.size() % 16 || all.size() < 4096) all.push_back(of_bits(engine()));
  return all;
}

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? kNaN : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void check_conversions() {
  const Floats all = numbers();
  for (size_t i = 0; i < all.size(); i += 16) {
    std::vector<bf16> rounded(16);
    store(rounded.data(), load(all.data() + i));
    for (int j = 0; j < 16; ++j) CHECK(rounded[j] == to_bf16(all[i + j]));
    const Floats back = stored(load(rounded.data()));
    for (int j = 0; j < 16; ++j) CHECK(bits_of(back[j]) == uint32_t{rounded[j]} << 16);
  }
  for (uint32_t first = 0; first < 65536; first += 16) {
    std::vector<uint16_t> halves(16);
    for (int j = 0; j < 16; ++j) halves[j] = static_cast<uint16_t>(first + j);
    const Floats found = stored(load_half(reinterpret_cast<const uint8_t*>(halves.data())));
    for (int j = 0; j < 16; ++j) CHECK(same(found[j], half_to_float(halves[j])));
  }
  std::vector<uint8_t> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  for (int first = 0; first < 256; first += 16) {
    const Floats found = stored(load_bytes(bytes.data() + first));
    for (int j = 0; j < 16; ++j) CHECK(found[j] == static_cast<float>(first + j));
  }
}

void check_arithmetic() {
  const Floats all = numbers();
  for (size_t i = 0; i + 17 < all.size(); ++i) {
    const float *p = all.data() + i, *q = p + 1;
    const Lanes a = load(p), b = load(q);
    const Floats least = stored(min(a, b)), most = stored(max(a, b)), size = stored(abs(a));
    const unsigned mask = greater(a, b);
    bool nan = false;
    for (int j = 0; j < 16; ++j) {
      CHECK(same(least[j], p[j] < q[j] ? p[j] : q[j]));
      CHECK(same(most[j], p[j] > q[j] ? p[j] : q[j]));
      CHECK(same(size[j], std::fabs(p[j])));
      CHECK((mask >> j & 1) == (p[j] > q[j]));
      nan = nan || std::isnan(p[j]) || std::isnan(q[j]);
    }
    CHECK(mask >> 16 == 0);
    CHECK(unordered(a, b) == nan);
  }
  for (int i = 0; i < 16; ++i) {
    Floats some(16);
    for (int j = 0; j < 16; ++j) some[j] = static_cast<float>((j * 7 + i) % 16);
    CHECK(sum(load(some.data())) == 120.0f);
    CHECK(largest(load(some.data())) == 15.0f);
    const Floats few(some.begin(), some.begin() + i), found = stored(load_first(few.data(), i, -3.0f));
    for (int j = 0; j < 16; ++j) CHECK(found[j] == (j < i ? some[j] : -3.0f));
  }
  for (float x = -2100.0f; x < 2100.0f; x += 4.0f) {  // halves are ties
    Floats some(16);
    for (int j = 0; j < 16; ++j) some[j] = x + 0.25f * static_cast<float>(j);
    const Floats found = stored(round(load(some.data())));
    const Floats ints = stored(to_floats(to_ints(load(some.data()))));
    int total = 0;
    for (int j = 0; j < 16; ++j) {
      CHECK(found[j] == std::nearbyint(some[j]) && ints[j] == found[j]);
      total += static_cast<int>(found[j]);
    }
    CHECK(sum(to_ints(load(some.data()))) == total);
  }
  for (int n = -150; n <= 150; ++n) {
    const float power = static_cast<float>(n);
    CHECK(same(stored(times_power_of_two(glidecape::all(1.25f), glidecape::all(power)))[n & 15], std::ldexp(1.25f, n)));
  }
}

void check_exp() {
  const Floats special{0.0f, -kInfinity, kInfinity, kNaN, -1e30f, 1e30f, -103.0f, 88.5f};
  const float expected[]{1.0f, 0.0f, kInfinity, kNaN, 0.0f, kInfinity};
  Floats x(special);
  x.resize(16);
  const Floats found = stored(glidecape::exp(load(x.data())));
  for (int i = 0; i < 6; ++i) CHECK(same(found[i], expected[i]));
  for (float first = -87.0f; first < 88.0f; first += 0.37f) {
    for (int j = 0; j < 16; ++j) x[j] = first + 0.02f * static_cast<float>(j);
    const Floats powers = stored(glidecape::exp(load(x.data())));
    for (int j = 0; j < 16; ++j)
      CHECK(std::fabs(powers[j] / std::exp(static_cast<double>(x[j])) - 1.0) < 4e-7);
  }
}

// From numbers that are almost 0 to such whose tanh is 1.
void check_tanh() {
  const Floats special{0.0f, -kInfinity, kInfinity, kNaN, -1e30f, 1e30f};
  const float expected[]{0.0f, -1.0f, 1.0f, kNaN, -1.0f, 1.0f};
  Floats x(special);
  x.resize(16);
  const Floats found = stored(glidecape::tanh(load(x.data())));
  for (int i = 0; i < 6; ++i) CHECK(same(found[i], expected[i]));
  for (float first = 1e-9f; first < 20.0f; first *= 1.013f) {
    for (int j = 0; j < 16; ++j) x[j] = (j % 2 ? first : -first) * (1.0f + 0.001f * static_cast<float>(j));
    const Floats capped = stored(glidecape::tanh(load(x.data())));
    for (int j = 0; j < 16; ++j)
      CHECK(std::fabs(capped[j] / std::tanh(static_cast<double>(x[j])) - 1.0) < 5e-7);
  }
}

void check_turn() {
  std::vector<std::vector<bf16>> rows(16, std::vector<bf16>(32));
  std::vector<const bf16*> keys;
  for (int i = 0; i < 16; ++i) {
    for (int d = 0; d < 32; ++d) rows[i][d] = static_cast<bf16>(0x3f80 + 32 * i + d);
    keys.push_back(rows[i].data());
  }
  constexpr int kStride = 20;
  Floats turned(31 * kStride + 16, -1.0f);
  turn_keys(keys.data(), turned.data(), kStride);
  for (int d = 0; d < 32; ++d)
    for (int i = 0; i < 16; ++i) CHECK(bits_of(turned[d * kStride + i]) == uint32_t{rows[i][d]} << 16);
  for (int d = 0; d < 31; ++d) CHECK(turned[d * kStride + 16] == -1.0f);  // what lies between is kept
  std::vector<Floats> widened(16, Floats(32));
  std::vector<const float*> float_keys;
  for (int i = 0; i < 16; ++i) {
    for (int d = 0; d < 32; ++d) widened[i][d] = of_bits(uint32_t{rows[i][d]} << 16);
    float_keys.push_back(widened[i].data());
  }
  Floats same_again(turned.size(), -1.0f);
  turn_keys(float_keys.data(), same_again.data(), kStride);
  CHECK(same_again == turned);
}

enum class Values { kRandom, kLargest, kAlternating };

// All weights and activations as large as they get, of one sign or of both in turn, or random; the
// wide quads, two, one or none, are anywhere, in another place for each row.
template <int Rows, Encoding E, int Sums>
void check_dots(Values kind) {
  std::mt19937 engine{Rows};
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(engine);
  };
  const auto activation = [&](int most, int i) {
    if (kind == Values::kRandom) return draw(-most, most);
    return kind == Values::kAlternating && i % 2 ? -most : most;
  };
  constexpr int kBits = E == Encoding::kEight ? 8 : E == Encoding::kSix ? 6 : E == Encoding::kFive ? 5 : 4;
  std::vector<uint8_t> packed(packed_bytes(E));
  constexpr int kStride = group_bytes(in_pairs(E));
  std::vector<int8_t> pairs(Rows * kPairsBytes), quads(Rows * kQuadsBytes);
  int weights[16][kGroup], values[Rows][kGroup];
  for (int lane = 0; lane < 16; ++lane)
    for (int i = 0; i < kGroup; ++i) {
      const int weight = kind == Values::kRandom ? draw(0, (1 << kBits) - 1) : (1 << kBits) - 1;
      place(packed.data(), E, in_pairs(E), lane, i, static_cast<uint8_t>(weight));
      weights[lane][i] = E == Encoding::kTable ? kTableValues[weight] : weight;
    }
  for (int r = 0; r < Rows; ++r) {
    const int first = draw(0, 7), second = (first + draw(1, 7)) % 8, count = draw(0, 2);
    Floats floats(kGroup);
    for (int i = 0; i < kGroup; ++i) {
      const bool is_wide = (count > 0 && i / 4 == first) || (count > 1 && i / 4 == second);
      values[r][i] = activation(is_wide ? kLargestWide : glidecape::kLargest, i) * (r % 2 ? -1 : 1);
      floats[i] = static_cast<float>(values[r][i]);
    }
    put_values({pairs.data() + r * kPairsBytes, quads.data() + r * kQuadsBytes}, to_ints(load(floats.data())),
               to_ints(load(floats.data() + 16)), {first, second, count, 0.0f, 0.0f});
  }
  int calls = 0;
  const auto& groups = in_pairs(E) ? pairs : quads;
  add_dots<Rows, E, Sums>(packed.data(), groups.data(), kStride, [&](int r, const IntLanes* dots) {
    CHECK(r == calls++);
    for (int part = 0; part < Sums; ++part) {
      const Floats found = stored(to_floats(dots[part]));
      for (int lane = 0; lane < 16; ++lane) {
        int expected = 0;
        for (int i = kGroup / Sums * part; i < kGroup / Sums * (part + 1); ++i)
          expected += weights[lane][i] * values[r][i];
        CHECK(found[lane] == static_cast<float>(expected));
      }
    }
  });
  CHECK(calls == Rows);
}

// Where two quads are equally large, either may be taken.
void check_wide_quads() {
  int seen[3] = {};  // groups by how many of their quads are wide
  std::mt19937 engine{1};
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  for (int round = 0; round < 2000; ++round) {
    Floats x(kGroup), most(8, 0.0f);
    for (float& each : x) each = round % 3 ? value(engine) : std::round(4 * value(engine));
    if (round % 5 == 0) x[round % kGroup] *= 1000.0f;
    if (round % 7 == 0) x[(round + 8) % kGroup] *= 300.0f;
    for (int i = 0; i < kGroup; ++i) most[i / 4] = std::max(most[i / 4], std::fabs(x[i]));
    const WideQuads quads = find_wide_quads(load(x.data()), load(x.data() + 16));
    CHECK(quads.first != quads.second);
    Floats sorted = most;
    std::sort(sorted.rbegin(), sorted.rend());
    const auto close = [](float a, float b) { return std::fabs(a - b) <= 1e-6f * std::fabs(b); };
    CHECK(close(most[quads.first], sorted[0]) && close(quads.largest, sorted[0]));
    CHECK(close(most[quads.second], sorted[1]));
    const auto narrow = [&](int i) { return sorted[i] < glidecape::kCoarsest * sorted[2]; };
    const auto clear = [&](int i) { return !close(sorted[i], glidecape::kCoarsest * sorted[2]); };
    if (clear(0) && clear(1)) CHECK(quads.count == (narrow(0) ? 0 : narrow(1) ? 1 : 2));
    CHECK(close(quads.rest, sorted[quads.count]));
    ++seen[quads.count];
  }
  CHECK(seen[0] > 100 && seen[1] > 100 && seen[2] > 50);
  const Lanes zeros = all(0.0f);
  const WideQuads none = find_wide_quads(zeros, zeros);
  CHECK(none.first != none.second && none.largest == 0.0f && none.rest == 0.0f);
}

template <int Rows>
void check_all_dots() {
  for (const Values kind : {Values::kRandom, Values::kLargest, Values::kAlternating}) {
    check_dots<Rows, Encoding::kFour, 1>(kind);
    check_dots<Rows, Encoding::kFive, 1>(kind);
    check_dots<Rows, Encoding::kSix, 2>(kind);
    check_dots<Rows, Encoding::kEight, 1>(kind);
    check_dots<Rows, Encoding::kTable, 1>(kind);
  }
}

// Number i of a row of units.
template <class Units>
float number(const float* row, int i) {
  if (Units::kNumbers == 1) return row[i];
  uint16_t half;
  std::memcpy(&half, reinterpret_cast<const char*>(row) + 2 * i, sizeof half);
  return of_bits(uint32_t{half} << 16);
}

// What a unit holds, and what is made of it: sums to the rounding of their own additions.
template <class Units>
void check_units() {
  constexpr int kNumbers = Units::kNumbers;
  std::mt19937 engine{5};
  std::normal_distribution<float> normal;
  const auto next = [&] { return of_bits(uint32_t{to_bf16(normal(engine))} << 16); };
  Floats x(32), row(64);
  for (float& value : x) value = normal(engine);
  for (int i = 0; i < 32; i += 16) Units::put(row.data(), i, load(x.data() + i));
  for (int i = 0; i < 32; ++i) {
    const float rounded = kNumbers == 1 ? x[i] : of_bits(uint32_t{to_bf16(x[i])} << 16);
    CHECK(number<Units>(row.data(), i) == rounded);
  }
  for (int i = 0; i < 32; i += 16) Units::put_whole(row.data(), 32, i, load(x.data() + i));
  for (int i = 0; i < 32; ++i) {
    float whole = 0.0f;
    for (int part = 0; part < Units::kWholeParts; ++part)
      whole += number<Units>(row.data(), 32 * part + i);
    CHECK(std::abs(whole - x[i]) <= std::abs(x[i]) * (kNumbers == 1 ? 0.0f : 0x1p-15f));
  }
  std::vector<bf16> rows(16 * 32);
  for (bf16& value : rows) value = to_bf16(next());
  const auto at = [&](int r, int i) { return of_bits(uint32_t{rows[r * 32 + i]} << 16); };
  const bf16* keys[16];
  for (int r = 0; r < 16; ++r) keys[r] = rows.data() + r * 32;
  const int units = 32 / kNumbers, stride = 19;
  Floats turned((units - 1) * stride + 16), joined(32);
  Units::turn(keys, turned.data(), stride);
  Units::join(keys, 32, joined.data());
  for (int i = 0; i < 32; ++i) {
    for (int r = 0; r < 16; ++r)
      CHECK(number<Units>(turned.data() + i / kNumbers * stride + r, i % kNumbers) == at(r, i));
    for (int r = 0; r < kNumbers; ++r) CHECK(number<Units>(joined.data() + i, r) == at(r, i));
  }
  for (int unit = 0; unit < units; ++unit) {
    const float* from = turned.data() + unit * stride;
    const Floats sums = stored(Units::add_products(all(0.25f), from, load(from)));
    for (int r = 0; r < 16; ++r) {
      double sum = 0.25, size = 0.25;
      for (int i = 0; i < kNumbers; ++i) {
        const double product = double{number<Units>(from, i)} * number<Units>(from + r, i);
        sum += product, size += std::abs(product);
      }
      CHECK(std::abs(sums[r] - sum) <= size * 0x1p-21);
    }
  }
}

}  // namespace

int main() {
  check_conversions();
  check_arithmetic();
  check_exp();
  check_tanh();
  check_turn();
  check_wide_quads();
  check_all_dots<1>();
  check_all_dots<2>();
  check_all_dots<5>();
  check_all_dots<7>();
  check_all_dots<16>();
  check_units<FloatUnits>();
#ifdef GLIDECAPE_AVX512
  if (__builtin_cpu_supports("avx512bf16")) check_units<PairUnits>();
#endif
  std::puts("done");
}
