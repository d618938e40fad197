"""Acceptance by sample-and-match on the device: a token is drawn at every node, and all trees are
walked at once.

Its twin is `step/host/accept.py`, which draws at the nodes of the path alone. A walk goes from the
root to the child that has the drawn token, as long as there is one. Every round does the same for
all sequences, as many rounds as trees are deep: nothing is asked of the host.
"""

from typing import NamedTuple

import torch

from server.engine.speculation.tiers import Sampling
from server.engine.step.device.expand import Trees
from server.engine.step.device.seats import Rows
from server.engine.step.truncation import keep_mask_of_best
from server.kernels.dispatch import kernels_for

_BEST = 1024
"""Tokens that are sorted for top_k and top_p: a nucleus is rarely larger, and sorting a vocabulary
takes as long as a layer. Where these don't decide what may be drawn, the host draws the token."""


def draw(
    logits: torch.Tensor, rows: Rows, trees: Trees, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a token at every node of a step, as `step/sampler.py` would at the nodes of the path.

    Args:
        logits: [batch x nodes, vocab] float32.

    Returns:
        (tokens [batch, nodes] int64, whether they are decided [batch, nodes] bool)
    """
    num_nodes = trees.depths.shape[1]
    kernels = kernels_for(logits)
    best = kernels.argmax(logits)
    decided = torch.ones_like(best, dtype=torch.bool)
    if sampling == "greedy":
        return best.view_as(trees.depths), decided.view_as(trees.depths)

    def per_node(values: torch.Tensor) -> torch.Tensor:
        return values[:, None].expand(-1, num_nodes).flatten()

    temperatures = per_node(rows.temperatures)
    is_drawn = temperatures > 0
    temperatures = torch.where(is_drawn, temperatures, 1.0)
    keep = None
    if sampling == "truncated":
        probs = (logits / temperatures[:, None]).softmax(dim=-1)
        top_k, top_p, min_p = (per_node(values) for values in (rows.top_k, rows.top_p, rows.min_p))
        keep, decided = keep_mask_of_best(probs, top_k, top_p, min_p, _BEST)
        decided |= ~is_drawn
    positions = (rows.contexts[:, None] + trees.depths + 1).flatten()
    drawn = kernels.draw(logits, temperatures, keep, per_node(rows.seeds), positions)
    tokens = torch.where(is_drawn, drawn, best)
    return tokens.view_as(trees.depths), decided.view_as(trees.depths)


class Walks(NamedTuple):
    """What became of a step's trees."""

    counts: torch.Tensor
    """[batch] committed nodes, which is how many tokens are emitted; 0 for padding rows, and where
    the root's draw is not decided."""
    path: torch.Tensor
    """[batch, depth + 1] nodes of the path; after `counts` entries the last one repeats."""
    token_ids: torch.Tensor
    """[batch, depth + 1] tokens drawn at the path's nodes."""

    @property
    def num_above(self) -> torch.Tensor:
        """[batch] committed nodes above the last one; 0 where there is none."""
        return (self.counts - 1).clamp(min=0)

    @property
    def last(self) -> torch.Tensor:
        """[batch] the last committed node; the root where there is none."""
        return self.path[:, -1]


def follow(trees: Trees, drawn: torch.Tensor, decided: torch.Tensor, depth: int) -> Walks:
    """Walks all trees.

    Args:
        drawn: [batch, nodes] a token per node, void where not decided.
        decided: [batch, nodes] bool. A node whose token is not decided is not walked onto: its own
            token then is the last one, and the next step's root.
        depth: depth of the deepest tree.
    """
    at = torch.zeros_like(trees.token_ids[:, 0])
    going = trees.is_valid[:, 0] & decided[:, 0]
    counts, path, token_ids = going.long(), list[torch.Tensor](), list[torch.Tensor]()
    for step in range(depth + 1):
        token = drawn.gather(1, at[:, None])
        path.append(at)
        token_ids.append(token[:, 0])
        if step == depth:
            break
        is_child = (trees.parents == at[:, None]) & (trees.token_ids == token)
        is_child &= trees.is_valid & decided
        going = going & is_child.any(dim=1)
        child = is_child.int().argmax(dim=1)  # there is one at most
        counts = counts + going
        at = torch.where(going, child, at)
    return Walks(counts, torch.stack(path, dim=1), torch.stack(token_ids, dim=1))
