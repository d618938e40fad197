"""What a step on the device gives back to the host: one tensor of int64, a row per sequence, from
which proposals, trees and walks are made."""

from typing import NamedTuple

import numpy as np
import torch

from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tiers import StepShape
from server.engine.speculation.tree import TokenTree
from server.engine.step.device.accept import Walks
from server.engine.step.device.draft import Drafted
from server.engine.step.device.expand import Trees
from server.engine.step.device.seats import Rows

_TRUNK = 2
"""Code of a trunk node; 1 is the root or a leaf, 0 no node."""


class Outcome(NamedTuple):
    """What a step did for one sequence."""

    path: list[int]
    """Committed nodes, the root first; empty where the host has to draw the next token."""
    token_ids: list[int]
    """Tokens drawn at the path's nodes."""
    tree: TokenTree
    proposal: Proposal | None
    """The chain that was drafted, as far as the answer might have been this long."""
    is_nan: bool


def _widths(shape: StepShape, num_candidates: int) -> dict[str, int]:
    """The layout of a row: its parts in order, and how many numbers each takes.

    Args:
        num_candidates: candidates of all depths of a chain together.
    """
    depth, nodes = shape.tier
    return {
        "num_committed": 1,
        "is_nan": 1,
        "max_depth": 1,
        "path": depth + 1,
        "drawn": depth + 1,
        "token_ids": nodes,
        "parents": nodes,
        "kinds": nodes,
        "candidates": num_candidates,
        "confidences": num_candidates,
    }


def pack(
    shape: StepShape,
    rows: Rows,
    drafted: Drafted,
    trees: Trees,
    walks: Walks,
    logits: torch.Tensor,
) -> torch.Tensor:
    """[batch, numbers] int64, laid out by `_widths`; floats are stored by their bits."""
    # 20 times cheaper than isnan().any()
    is_nan = logits.view(shape.batch, -1).sum(dim=1).isnan() & rows.is_live
    parts = {
        "num_committed": walks.counts[:, None],
        "is_nan": is_nan[:, None].long(),
        "max_depth": rows.max_depth[:, None],
        "path": walks.path,
        "drawn": walks.token_ids,
        "token_ids": trees.token_ids,
        "parents": trees.parents,
        "kinds": trees.is_valid.long() + trees.is_trunk,
        "candidates": drafted.token_ids.flatten(1),
        "confidences": drafted.confidences.flatten(1).contiguous().view(torch.int32).long(),
    }
    widths = _widths(shape, parts["candidates"].shape[1])
    return torch.cat([parts[name].view(shape.batch, width) for name, width in widths.items()], 1)


def unpack(packed: torch.Tensor, shape: StepShape, num_rows: int) -> list[Outcome]:
    """Reads the first rows of what `pack` made; packed: on the CPU."""
    numbers = packed[:num_rows].numpy()
    num_fixed = sum(_widths(shape, 0).values())
    widths = _widths(shape, (numbers.shape[1] - num_fixed) // 2)
    parts = np.split(numbers, np.cumsum(list(widths.values()))[:-1], axis=1)
    by_name = dict(zip(widths, parts, strict=True))
    by_name["confidences"] = by_name["confidences"].astype(np.int32).view(np.float32)
    lists = [part.tolist() for part in by_name.values()]
    rows = (_Numbers(**dict(zip(widths, row, strict=True))) for row in zip(*lists, strict=True))
    return [_outcome(shape.tier.depth, row) for row in rows]


class _Numbers(NamedTuple):
    """One row, by the names of `_widths`."""

    num_committed: list[int]
    is_nan: list[int]
    max_depth: list[int]
    path: list[int]
    drawn: list[int]
    token_ids: list[int]
    parents: list[int]
    kinds: list[int]
    candidates: list[int]
    confidences: list[float]


def _outcome(tier_depth: int, row: _Numbers) -> Outcome:
    (num_committed,), depth = row.num_committed, min(tier_depth, row.max_depth[0])
    num_nodes = max(sum(kind > 0 for kind in row.kinds), 1)
    num_trunk = sum(kind == _TRUNK for kind in row.kinds)
    nodes = tuple(row.token_ids[:num_nodes]), tuple(row.parents[1:num_nodes])
    tree = TokenTree(*nodes, num_trunk, is_comb=True)
    proposal = None
    if depth > 0:
        width = len(row.candidates) // tier_depth
        starts = range(0, depth * width, width)
        proposal = Proposal(
            tuple(tuple(row.candidates[i : i + width]) for i in starts),
            tuple(tuple(row.confidences[i : i + width]) for i in starts),
        )
    return Outcome(
        row.path[:num_committed], row.drawn[:num_committed], tree, proposal, bool(row.is_nan[0])
    )
