"""Drafts that are wide enough for native code, and chains of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from server.kernels.types import ChainEnds, CopyHints, OwnTokens, Roots
from server.models.config import ModelConfig
from tests.kernels.paged import Nodes
from tests.models.dense_glide import Draft, make_draft, target_config
from tests.models.glide_drafts import (
    BLOCK,
    COPIED,
    STEPS,
    VERIFIED,
    PagedDraft,
    copied,
    final_hidden,
    text,
)


def wide_target(**changes: object) -> ModelConfig:
    sizes: dict[str, object] = {"hidden_size": 80, "intermediate_size": 96, "head_dim": 32}
    return target_config(**sizes | changes)


def wide_draft(target: ModelConfig | None = None, **changes: object) -> Draft:
    target = target or wide_target()
    sizes: dict[str, object] = {
        "hidden_size": target.hidden_size, "head_dim": 32, "intermediate_size": 96,
    }  # fmt: skip
    return make_draft(target, **sizes | changes)


def rms(tensor: torch.Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())


class Chains(NamedTuple):
    """Chains side by side, 0 after their ends."""

    token_ids: torch.Tensor
    """[max depth, sequences, candidates]"""
    confidences: torch.Tensor
    lengths: torch.Tensor
    """[sequences]"""


def chains(
    paged: PagedDraft,
    roots: Sequence[tuple[int, int, int]],
    hidden: torch.Tensor | None,
    least: Sequence[float] | None = None,
    behind: Sequence[Sequence[int]] | None = None,
    own: OwnTokens | None = None,
    hints: CopyHints | None = None,
) -> Chains:
    """roots: (sequence, verified tokens, depth), the longest chain first. The chance of a token is
    its confidence below 0.5, and 0.5 and half of it above."""
    sequences = [sequence for sequence, _, _ in roots]
    found = paged.model.draft_chains(
        Roots(
            [text(sequence)[verified] for sequence, verified, _ in roots],
            [verified for _, verified, _ in roots],
            [depth for _, _, depth in roots],
            paged.tables[sequences].tolist(),
            BLOCK,
            None if hidden is None else list(hidden),
            own,
            *((None, None) if hints is None else (part.tolist() for part in hints)),
            behind=behind,
        ),
        ChainEnds(least or [0.0] * len(roots), [0.0, 0.5], [1.0, 0.5]),
        paged.kv,
        num_candidates=8,
    )
    lengths = [len(chain.candidates) for chain in found]
    candidates, confidences = (
        [torch.tensor(part) for part in parts] for parts in zip(*found, strict=True)
    )
    return Chains(pad_sequence(candidates), pad_sequence(confidences), torch.tensor(lengths))


def assert_chains_are_single_steps(draft: Draft, paged: PagedDraft) -> None:
    """Three chains of different depths together, and each alone step by step."""
    hidden = torch.stack([final_hidden(draft.target, seed).bfloat16() for seed in range(3)])
    roots = [(2, VERIFIED, STEPS), (0, VERIFIED - 4, 3), (1, 1, 1)]
    for sequence, verified, _ in roots:
        paged.fill(Nodes(sequence, 0, text(sequence)[:verified]))
    glimpsed = hidden[[2, 0, 1]] if draft.config.glimpse_hidden else None
    places = torch.arange(STEPS)[:, None] + torch.arange(3)
    hints = None
    if draft.config.copy_hint:
        hints = CopyHints(
            *(torch.tensor(part)[places % STEPS] for part in zip(*COPIED, strict=True))
        )
    together = chains(paged, roots, glimpsed, hints=hints)
    assert together.lengths.tolist() == [depth for _, _, depth in roots]
    for column, (sequence, verified, depth) in enumerate(roots):
        token = text(sequence)[verified]
        for step in range(depth):
            logits = paged.draft(
                Nodes(sequence, verified + step, [token]),
                verified=[verified],
                hidden=hidden[sequence][None] if draft.config.glimpse_hidden else None,
                delay=step + 1,
                hints=copied((step + column) % STEPS) if draft.config.copy_hint else None,
            )[0]
            best = logits.sort(descending=True, stable=True).indices[:8]
            tokens, confidences = (part[step, column] for part in together[:2])
            assert torch.equal(paged.model.draft_token_ids[best], tokens)
            torch.testing.assert_close(confidences, logits.softmax(0)[best], rtol=1e-5, atol=1e-7)
            token = int(tokens[0])
