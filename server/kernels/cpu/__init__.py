"""Native kernels for CPUs, compiled with the package for AVX-512, for AVX-VNNI, for AVX2 and for
any CPU; where there was no compiler, the torch reference serves."""
