"""Triton kernels for NVIDIA GPUs, each with its torch reference's signature
(`kernels/reference.py`). `dispatch.py` takes them for tensors on a GPU.

Launches depend on sizes alone and never on values that lie on the device, so that a step can be
captured in a CUDA graph. On a CPU they run in Triton's interpreter (`TRITON_INTERPRET=1`), which is
how they are tested where there is no GPU.

They are imported only where they are used: nothing else needs Triton.
"""

from collections.abc import Iterable

ATTENTION_WORKSPACE = 2**28
"""Most bytes of attention's partial results, unless a single tile takes more."""
_GRANULE = 16
"""Elements, of two bytes at least: as many bytes as the widest load takes, or more."""


def granule_of(offsets: Iterable[int]) -> int:
    """What offsets into a pool are all multiples of, for `tl.multiple_of`: they come from memory,
    where the compiler can't see it. 1 where that is too little for wide loads."""
    return 1 if any(offset % _GRANULE for offset in offsets) else _GRANULE
