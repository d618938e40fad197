"""Soft labels: what the target would say next, as far as the draft can propose it.

Of the target's distribution over its whole vocabulary, the k most probable tokens that the draft
knows are kept, and the mass of all others it knows as one number. Mass on tokens that the draft
does not know is dropped and the label not scaled up: a position where the target says something
else anyway weighs accordingly less.
"""

from typing import NamedTuple

import torch


class SoftLabels(NamedTuple):
    """Labels of some rows."""

    probs: torch.Tensor
    """[rows, k] float: of the target, best first."""
    columns: torch.Tensor
    """[rows, k] int: where those tokens are in the draft's vocabulary."""
    rest: torch.Tensor
    """[rows] float: the target's mass on the draft's other tokens."""
    best: torch.Tensor
    """[rows] int: column of the target's most probable token; `NOT_KNOWN` where the draft lacks
    it."""


NOT_KNOWN = -1


class Labeller:
    """Cuts labels out of the target's logits.

    Args:
        draft_token_ids: [draft_vocab] int64.
        vocab_size: of the target.
    """

    def __init__(self, draft_token_ids: torch.Tensor, vocab_size: int, top_k: int) -> None:
        self.draft_token_ids = draft_token_ids
        self.top_k = min(top_k, len(draft_token_ids))
        self.columns = torch.full((vocab_size,), NOT_KNOWN, device=draft_token_ids.device)
        order = torch.arange(len(draft_token_ids), device=draft_token_ids.device)
        self.columns[draft_token_ids] = order

    def __call__(self, logits: torch.Tensor) -> SoftLabels:
        """logits: [rows, vocab_size] float32."""
        mass = logits.logsumexp(dim=-1, keepdim=True)
        known = logits[:, self.draft_token_ids]
        top = known.topk(self.top_k, dim=-1)
        probs = (top.values - mass).exp()
        known_mass = (known.logsumexp(dim=-1) - mass[:, 0]).exp()
        rest = (known_mass - probs.sum(dim=-1)).clamp_min(0)
        return SoftLabels(probs, top.indices, rest, self.columns[logits.argmax(dim=-1)])
