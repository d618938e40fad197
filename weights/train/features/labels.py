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


def soft_labels(logits: torch.Tensor, top_k: int) -> SoftLabels:
    """Cuts labels out of the target's logits [rows, vocab_size] float32."""
    top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    return SoftLabels((top.values - logits.logsumexp(dim=-1, keepdim=True)).exp(), top.indices)
