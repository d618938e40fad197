"""The KV pool: one allocation, divided into blocks that the scheduler hands out by number."""

from dataclasses import dataclass

import numpy as np
import torch

from server.kernels.tree import LayerCache

_NUMPY_STORAGE = {1: np.uint8, 2: np.uint16, 4: np.float32}
"""By bytes per element; bfloat16 has no numpy type, its bits travel as uint16."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """KV of one token over all layers of a model."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


def allocate_kv(
    shape: CacheShape, num_blocks: int, block_size: int, device: torch.device
) -> list[LayerCache]:
    """One `LayerCache` per layer, all zero.

    Zero and not merely empty: masked positions are multiplied by weight 0, and 0 x NaN is NaN.
    """
    size = (shape.num_layers, 2, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    pool = _lazy_zeros(size, shape.dtype) if device.type == "cpu" else torch.zeros(
        size, dtype=shape.dtype, device=device
    )  # fmt: skip
    return [LayerCache(keys=layer[0], values=layer[1]) for layer in pool]


def _lazy_zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages the system hands out on first write (calloc): an unused pool costs no
    memory, and start-up does not wait for it. torch.zeros would touch every page."""
    return torch.from_numpy(np.zeros(size, dtype=_NUMPY_STORAGE[dtype.itemsize])).view(dtype)
