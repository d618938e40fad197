"""Acceptance by sample-and-match: lossless at every temperature. Twin: `step/device/accept.py`.

At each node the target's token is drawn from its processed distribution, exactly as plain decoding
draws it. If the drawn token is a child of the node, descend; else stop. Every drawn token is
emitted, so the output is what plain decoding gives, and a proposal only decides how many tokens one
step yields. Penalties and min_tokens are applied over the node's own ancestors, because the drawn
tokens are the ancestors. For the same reason a grammar's mask is made for the path's nodes alone,
each behind the tokens drawn above it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch

from server.engine.outputs import TokenLogprobs
from server.engine.step.inputs import rows_of
from server.engine.step.sampler import SamplerRow, sample
from server.engine.step.walk import TreeWalk

_MOST_TOGETHER = 8
"""Nodes drawn for at once: of a long trunk that was looked up, most may be for nothing."""


@dataclass(slots=True, kw_only=True)
class Verification(TreeWalk):
    """A walk whose tokens are drawn from a step's logits, node by node."""

    first_row: int
    """Row of the root's logits; node i's are i rows below it."""
    row: SamplerRow
    """What draws the token after the root."""
    ignores_text: bool = field(init=False)
    """The row's; asked for at every node."""

    def __post_init__(self) -> None:
        self.ignores_text = self.row.ignores_text


def accept(logits: torch.Tensor, walks: Sequence[Verification]) -> None:
    """Walks all trees at once, until each has drawn a token that is no child.

    Where the text does not matter to what is drawn, a round draws for the rest of the trunk, which
    mostly is the path; else a round is a depth.

    Args:
        logits: [rows, vocab] float32 of all trees' nodes.
        walks: extended in place.
    """
    active = list(walks)
    while active:
        nodes = [_drawn_together(walk) for walk in active]
        pairs = list(zip(active, nodes, strict=True))
        rows = [walk.first_row + node for walk, some in pairs for node in some]
        drawers = [_row_at(walk, i) for walk, some in pairs for i in range(len(some))]
        drawn = iter(zip(*sample(rows_of(logits, rows), drawers), strict=True))
        active = [walk for walk, some in pairs if _go_on(walk, some, islice(drawn, len(some)))]


def _drawn_together(walk: Verification) -> Sequence[int]:
    """The node where the walk is, and those below it on the trunk that can be drawn for with it."""
    node, end = walk.path[-1], walk.tree.num_trunk
    if not walk.ignores_text or node > end:
        return (node,)
    return range(node, min(end + 1, node + _MOST_TOGETHER))


def _row_at(walk: Verification, num_ahead: int) -> SamplerRow:
    """The sampler's view so many nodes below the end of the walk so far."""
    num_more = len(walk.token_ids) + num_ahead
    if num_more == 0:
        return walk.row
    if walk.ignores_text:
        return walk.row.ahead(num_more)
    return replace(walk.row, output_ids=[*walk.row.output_ids, *walk.token_ids])


def _go_on(
    walk: Verification,
    nodes: Sequence[int],
    drawn: Iterator[tuple[int, TokenLogprobs | None]],
) -> bool:
    """Goes down as far as the nodes drawn for lie on the path. False where the walk has ended.

    Args:
        drawn: a token for each of the nodes; all are taken.
    """
    for node, (token_id, logprobs) in list(zip(nodes, drawn, strict=True)):
        if node != walk.path[-1]:
            break  # the path has left the trunk
        walk.token_ids.append(token_id)
        if walk.row.grammar is not None:
            walk.row.grammar.accept(token_id)
        if logprobs is not None:
            walk.logprobs.append(logprobs)
        child = walk.tree.child(node, token_id)
        if child is None:
            return False
        walk.path.append(child)
    return True
