"""Draws a token at every node of a step, as `sampler.py` would at the nodes of the path."""

import torch

from server.engine.speculation.tiers import Sampling
from server.engine.step.device.expand import Trees
from server.engine.step.device.seats import Rows
from server.engine.step.truncation import keep_mask_of_best
from server.kernels.dispatch import kernels_for

_BEST = 1024
"""Tokens that are sorted for top_k and top_p. Where they don't suffice to tell what may be drawn,
the host does: a nucleus is rarely larger, and sorting a vocabulary takes as long as a layer."""


def draw_all(
    logits: torch.Tensor, rows: Rows, trees: Trees, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """
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
