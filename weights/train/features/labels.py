"""Soft labels: what the target would say next.

Of the target's distribution over its whole vocabulary the k most probable tokens are kept, by their
ids: so a draft's vocabulary can be chosen anew without another forward of the target.
"""

from typing import NamedTuple

import torch


class SoftLabels(NamedTuple):
    """Labels of some rows."""

    probs: torch.Tensor
    """[rows, k] float: the target's probabilities, best first."""
    token_ids: torch.Tensor
    """[rows, k] int: their tokens."""
    rest: torch.Tensor
    """[rows] float: the mass of all other tokens. It is kept, since where the target is sure it is
    far less than the rounding of the probabilities."""


def soft_labels(logits: torch.Tensor, top_k: int) -> SoftLabels:
    """Cuts labels out of the target's logits [rows, vocab_size] float32.

    Each pass over the logits costs as much as a part of the target, so there are few.
    """
    top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    best = top.values[:, :1]
    kept = (top.values - best).exp()
    # Those kept are taken out and not subtracted, which would leave nothing but rounding.
    others = (logits - best).exp_().scatter_(1, top.indices, 0.0)
    rest = others.sum(dim=-1)
    total = rest + kept.sum(dim=-1)
    return SoftLabels(kept / total[:, None], top.indices, rest / total)
