"""The KV pool: one allocation, divided into blocks that the scheduler hands out by number."""

import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from server.kernels.dispatch import kernels_for
from server.kernels.tree import LayerCache


@dataclass(frozen=True, slots=True)
class CacheShape:
    """KV of one token over all layers of a model."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    layers: tuple[tuple[int, int], ...] = ()
    """Per layer: KV heads and their size, where layers differ in them."""

    @property
    def bytes_per_token(self) -> int:
        same = ((self.num_kv_heads, self.head_dim),) * self.num_layers
        numbers = sum(heads * size for heads, size in self.layers or same)
        return 2 * numbers * self.dtype.itemsize


def allocate_kv(
    shape: CacheShape, num_blocks: int, block_size: int, device: torch.device
) -> list[LayerCache]:
    """One `LayerCache` per layer, all zero.

    Zero and not merely empty: masked positions are multiplied by weight 0, and 0 x NaN is NaN.
    """
    if shape.layers:
        each = (CacheShape(1, *layer, shape.dtype) for layer in shape.layers)
        return [cache for one in each for cache in allocate_kv(one, num_blocks, block_size, device)]
    size = (shape.num_layers, 2, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
    pool = _lazy_zeros(size, shape.dtype) if device.type == "cpu" else torch.zeros(
        size, dtype=shape.dtype, device=device
    )  # fmt: skip
    return [LayerCache(keys=layer[0], values=layer[1]) for layer in pool]


def _lazy_zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose pages the system hands out on first write: an unused pool costs no memory, and
    start-up does not wait for it. torch.zeros would touch every page; numpy.zeros asks for pages of
    2 MB, of which the first token writes two in every layer."""
    num_bytes = math.prod(size) * dtype.itemsize
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(size)  # keeps the pages alive


CopyKV = Callable[[Sequence[LayerCache], Sequence[int], Sequence[int]], None]
"""(caches, source slots, target slots); copies the tokens' KV of all layers."""


def copy_kv(caches: Sequence[LayerCache], sources: Sequence[int], targets: Sequence[int]) -> None:
    """Copies tokens' KV of all layers. A sequence's moves come in order of its positions, each to
    an earlier slot."""
    keys = caches[0].keys
    source, target = (torch.tensor(slots, device=keys.device) for slots in (sources, targets))
    for alike in _alike(caches):
        kernels_for(keys).copy_kv(alike, source, target)


def _alike(caches: Sequence[LayerCache]) -> list[Sequence[LayerCache]]:
    """The layers in groups of one shape: kernels move all of a group at once."""
    found: dict[torch.Size, list[LayerCache]] = {}
    for cache in caches:
        found.setdefault(cache.keys.shape, []).append(cache)
    return [caches] if len(found) == 1 else list(found.values())
