// The C ABI of the question which of the libraries a CPU runs.
#pragma once

#pragma GCC visibility push(default)
extern "C" {

// name: avx512, avxvnni, avx2 or portable. To be asked of the portable library, which any CPU of its
// kind runs.
bool glidecape_cpu_runs(const char* name);
}
#pragma GCC visibility pop
