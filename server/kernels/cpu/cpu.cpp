// What a CPU and its operating system have of the instructions that setup.py lets the compiler use.
#include "cpu.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>

namespace {

// Those that __builtin_cpu_supports does not know in all compilers; bits of registers of cpuid.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 29;
}
bool has_movbe_and_lzcnt() {
  unsigned a, b, c, d;
  const bool movbe = __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 22;
  return movbe && __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 5;
}
bool has_vnni_of_avx2() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1u << 4;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avxvnni() { return has_avx2() && has_vnni_of_avx2(); }

// -march=x86-64-v4 and VNNI. BF16, with which it is compiled too, is looked for where it is used.
bool has_avx512() {
  return has_avx2() && has_movbe_and_lzcnt() && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

bool glidecape_cpu_runs(const char* name) {
  if (!std::strcmp(name, "avx512")) return has_avx512();
  if (!std::strcmp(name, "avxvnni")) return has_avxvnni();
  if (!std::strcmp(name, "avx2")) return has_avx2();
  return !std::strcmp(name, "portable");
}

#else

bool glidecape_cpu_runs(const char* name) { return !std::strcmp(name, "portable"); }

#endif
