"""Models over the paged KV cache. They know tensors and kernels, not requests or files."""
