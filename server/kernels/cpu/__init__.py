"""Native kernels for x86 CPUs with AVX-512 BF16. Built with the package; without a compiler or on
another CPU the torch reference serves."""
