"""top_k, top_p and min_p as one cut-off probability per row."""

import torch

_FIRST_LOOK = 256
"""Candidates that are sorted first: a nucleus is rarely larger, and sorting a whole vocabulary
costs as much as a layer of the model."""


def keep_mask(
    probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor | None:
    """Which tokens stay: [rows, vocab] bool, or None if all do.

    Every token as probable as the last one kept stays too, so the result does not depend on how
    equal probabilities are sorted. The most probable token always stays.

    Args:
        probs: [rows, vocab], each row sums to 1.
        top_k: [rows] int, 0 for off.
        top_p: [rows], applied to what top_k left, renormalised; 1 for off.
        min_p: [rows], a share of the largest probability; 0 for off.
    """
    vocab = probs.shape[-1]
    limited = (top_k > 0) & (top_k < vocab)
    if not bool((limited | (top_p < 1)).any()):
        if not bool((min_p > 0).any()):
            return None
        return probs >= min_p[:, None] * probs.amax(dim=-1, keepdim=True)
    limits = torch.where(limited, top_k, vocab)
    cutoff = _cutoff(probs, limits, top_p)
    cutoff = torch.maximum(cutoff, min_p * probs.amax(dim=-1))
    return probs >= cutoff[:, None]


def keep_mask_of_best(
    probs: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`keep_mask` without asking the host, by the `count` most probable tokens alone.

    Returns:
        ([rows, vocab] bool, [rows] bool: whether so many tokens decide it; elsewhere it is void)
    """
    vocab = probs.shape[-1]
    limits = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)
    cutoff, decided = _cutoff_among(probs, limits, top_p, min(count, vocab))
    cutoff = torch.maximum(cutoff, min_p * probs.amax(dim=-1))
    return probs >= cutoff[:, None], decided


def _cutoff(probs: torch.Tensor, limits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The probability of the last token that top_k and top_p keep, [rows]."""
    count = min(_FIRST_LOOK, probs.shape[-1])
    while True:
        cutoff, decided = _cutoff_among(probs, limits, top_p, count)
        if bool(decided.all()):
            return cutoff
        count = min(count * 8, probs.shape[-1])


def _cutoff_among(
    probs: torch.Tensor, limits: torch.Tensor, top_p: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cut-off by the `count` most probable tokens: ([rows], [rows] whether they decide it)."""
    vocab = probs.shape[-1]
    best = probs.topk(count, dim=-1).values
    within = torch.arange(count, device=probs.device) < limits[:, None]
    masses = torch.where(within, best, 0.0).double().cumsum(dim=-1)
    # top_p is a share of this mass: that of the top k, or all of it.
    whole = torch.where(limits < vocab, masses[:, -1], 1.0)
    wanted = top_p.double() * whole
    nucleus_in_sight = (limits >= vocab) & (masses[:, -1] >= wanted)
    keeps_all = (limits >= vocab) & (top_p >= 1)
    decided = (limits <= count) | nucleus_in_sight | keeps_all
    before = torch.cat((torch.zeros_like(masses[:, :1]), masses[:, :-1]), dim=-1)
    kept = within & ((before < wanted[:, None]) | (top_p[:, None] >= 1))
    last = kept.sum(dim=-1).clamp(min=1) - 1
    cutoff = best.gather(1, last[:, None])[:, 0]
    return torch.where(keeps_all, 0.0, cutoff), decided | (count == vocab)
