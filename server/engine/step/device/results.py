"""What a step on the device tells the host: one tensor of int64, a row per sequence, and the
proposals, trees and walks made of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tiers import StepShape
from server.engine.speculation.tree import TokenTree
from server.engine.step.device.expand import Drafted, Trees
from server.engine.step.device.seats import Rows
from server.engine.step.device.walk import Walks

_TRUNK = 2
"""Of the kinds of nodes; 1 is the root or a leaf, 0 nothing."""


class Outcome(NamedTuple):
    """What a step did for one sequence."""

    path: list[int]
    """Committed nodes, the root first; empty where the host has to draw the next token."""
    token_ids: list[int]
    """Drawn at the path's nodes."""
    tree: TokenTree
    proposal: Proposal | None
    """The chain that was drafted, as far as the answer might have been this long."""
    is_nan: bool


def pack(
    rows: Rows, drafted: Drafted, trees: Trees, walks: Walks, logits: torch.Tensor
) -> torch.Tensor:
    """[batch, numbers]: see `unpack`, which reads them in the same order."""
    batch = len(rows.tokens)
    # 20 times cheaper than isnan().any()
    is_nan = logits.view(batch, -1).sum(dim=1).isnan() & rows.is_live
    bits = drafted.confidences.flatten(1).contiguous().view(torch.int32).long()
    columns = (
        torch.stack((walks.counts, is_nan.long(), rows.max_depth), dim=1),
        walks.path,
        walks.token_ids,
        trees.token_ids,
        trees.parents,
        trees.is_valid.long() + trees.is_trunk,
        drafted.token_ids.flatten(1),
        bits,
    )
    return torch.cat(columns, dim=1)


def unpack(packed: torch.Tensor, shape: StepShape, num_rows: int) -> list[Outcome]:
    """Of the first rows; packed: on the CPU."""
    depth, nodes = shape.tier
    numbers = packed[:num_rows].numpy()
    num_candidates = (numbers.shape[1] - 3 - 2 * (depth + 1) - 3 * nodes) // 2
    widths = (3, depth + 1, depth + 1, nodes, nodes, nodes, num_candidates, num_candidates)
    parts = np.split(numbers, np.cumsum(widths)[:-1], axis=1)
    confidences = parts.pop().astype(np.int32).view(np.float32)
    lists = [part.tolist() for part in (*parts, confidences)]
    return [_outcome(depth, *row) for row in zip(*lists, strict=True)]


def _outcome(
    depth: int,
    flags: Sequence[int],
    path: Sequence[int],
    drawn: Sequence[int],
    token_ids: Sequence[int],
    parents: Sequence[int],
    kinds: Sequence[int],
    candidates: Sequence[int],
    confidences: Sequence[float],
) -> Outcome:
    count, is_nan, max_depth = flags
    num_nodes = max(sum(kind > 0 for kind in kinds), 1)
    num_trunk = sum(kind == _TRUNK for kind in kinds)
    shape = tuple(token_ids[:num_nodes]), tuple(parents[1:num_nodes])
    tree = TokenTree(*shape, num_trunk, is_comb=True)
    proposal = None
    if min(depth, max_depth) > 0:
        width = len(candidates) // depth
        starts = range(0, min(depth, max_depth) * width, width)
        proposal = Proposal(
            tuple(tuple(candidates[i : i + width]) for i in starts),
            tuple(tuple(confidences[i : i + width]) for i in starts),
        )
    return Outcome(list(path[:count]), list(drawn[:count]), tree, proposal, bool(is_nan))
