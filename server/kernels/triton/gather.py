"""Moves the KV of accepted nodes to the slots of their positions, all layers in one launch.

    grid: (keys and values of each layer, columns)
    one program: [MOVES, BLOCK] of a pool [slots, kv_heads x head_dim]: loads all, then stores all

A slot may be the target of one move and the source of another: within a program nothing is stored
before everything is loaded, and programs share no column.
"""

# Triton's language is no Python: its functions' parameters are pointers and numbers of the launch.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl

from server.kernels.tree import LayerCache
from server.kernels.triton import granule_of

_BLOCK = 32
_MOVES = 64
"""Moves that are loaded at once. More are taken in turn, which is safe for paths of a tree: each
moves its nodes to earlier slots, in order, so that every slot is read before it is written."""


def copy_kv(caches: Sequence[LayerCache], sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Like the reference's; among over 64 moves, no target may be the source of a later one."""
    first = caches[0].keys
    pools = [pool for cache in caches for pool in cache]
    pointers = tuple(pool.data_ptr() for pool in pools)
    offsets, granule = _offsets(pointers, first.itemsize, first.device)
    width = first.shape[2] * first.shape[3]
    _copy[(len(pools), triton.cdiv(width, _BLOCK))](
        first, offsets, sources, targets, len(sources),
        WIDTH=width, GRANULE=granule, MOVES=_MOVES, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip


@cache
def _offsets(
    pointers: tuple[int, ...], itemsize: int, device: torch.device
) -> tuple[torch.Tensor, int]:
    """Offsets of the pools from the first one, in elements, and what all are multiples of. They are
    kept for good: they are copied to the GPU once, and graphs hold the address."""
    offsets = [(pointer - pointers[0]) // itemsize for pointer in pointers]
    return torch.tensor(offsets, device=device), granule_of(offsets)


@triton.jit
def _copy(
    pool, offsets, sources, targets, num_moves,
    WIDTH: tl.constexpr, GRANULE: tl.constexpr, MOVES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = pool + tl.multiple_of(tl.load(offsets + tl.program_id(0)), GRANULE)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for start in range(0, num_moves, MOVES):
        move = start + tl.arange(0, MOVES)
        is_move = move < num_moves
        inside = is_move[:, None] & (column < WIDTH)[None, :]
        source = tl.load(sources + move, mask=is_move, other=0)
        target = tl.load(targets + move, mask=is_move, other=0)
        moved = tl.load(base + source[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
        tl.debug_barrier()  # waits for other threads' loads too
        tl.store(base + target[:, None] * WIDTH + column[None, :], moved, mask=inside)
        tl.debug_barrier()
