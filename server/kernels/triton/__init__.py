"""Triton kernels for NVIDIA GPUs, each with its torch reference's signature
(`kernels/reference.py`). `dispatch.py` takes them for tensors on a GPU.

Launches depend on sizes alone and never on values that lie on the device, so that a step can be
captured in a CUDA graph. On a CPU they run in Triton's interpreter (`TRITON_INTERPRET=1`), which is
how they are tested where there is no GPU.

They are imported only where they are used: nothing else needs Triton.
"""

ATTENTION_WORKSPACE = 2**28
"""Most bytes of attention's partial results, unless a single tile takes more."""
