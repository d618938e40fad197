"""Acceptance by sample-and-match: lossless at every temperature. Twin: `step/device/accept.py`.

At each node the target's token is drawn from its processed distribution, exactly as plain decoding
draws it. If the drawn token is a child of the node, descend; else stop. Every drawn token is
emitted, so the output is what plain decoding gives, and a proposal only decides how many tokens one
step yields. Penalties and min_tokens are applied over the node's own ancestors, because the drawn
tokens are the ancestors. Nothing is drawn for nodes off the path; for the same reason a grammar's
mask is made for the path's nodes alone, each behind the tokens drawn above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from server.engine.step.inputs import rows_of
from server.engine.step.sampler import SamplerRow, sample
from server.engine.step.walk import TreeWalk


@dataclass(slots=True, kw_only=True)
class Verification(TreeWalk):
    """A walk whose tokens are drawn from a step's logits, node by node."""

    first_row: int
    """Row of the root's logits; node i's are i rows below it."""
    row: SamplerRow
    """What draws the token after the root."""


def accept(logits: torch.Tensor, walks: Sequence[Verification]) -> None:
    """Walks all trees at once, a depth per round, until each has drawn a token that is no child.

    Args:
        logits: [rows, vocab] float32 of all trees' nodes.
        walks: extended in place.
    """
    active = list(walks)
    while active:
        rows = [walk.first_row + walk.path[-1] for walk in active]
        drawn = sample(rows_of(logits, rows), [_row_at(walk) for walk in active])
        going_on = list[Verification]()
        for walk, token_id, logprobs in zip(active, *drawn, strict=True):
            walk.token_ids.append(token_id)
            if walk.row.grammar is not None:
                walk.row.grammar.accept(token_id)
            if logprobs is not None:
                walk.logprobs.append(logprobs)
            child = walk.tree.child(walk.path[-1], token_id)
            if child is not None:
                walk.path.append(child)
                going_on.append(walk)
        active = going_on


def _row_at(walk: Verification) -> SamplerRow:
    """The sampler's view at the end of the walk so far."""
    if not walk.token_ids:
        return walk.row
    return replace(walk.row, output_ids=[*walk.row.output_ids, *walk.token_ids])
