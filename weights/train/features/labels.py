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
    """Cuts labels out of the target's logits [rows, vocab_size] float32."""
    top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    probs = (top.values - logits.logsumexp(dim=-1, keepdim=True)).exp()
    others = logits.scatter(1, top.indices, -torch.inf)
    rest = (others.logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp()
    return SoftLabels(probs, top.indices, rest)
