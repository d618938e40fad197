"""Logits of transformers' own code, to compare with."""

from typing import Any

import torch

from tests.models.hf.families import VOCAB_SIZE

PARENTS = [-1, 0, 1, 2, 0, 1, 1]
"""Root, a trunk of three, a leaf beside its first token and two beside its second."""


def tokens(count: int, seed: int = 5) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (count,), generator=generator).tolist()


@torch.no_grad()
def their_logits(reference: Any, token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocab_size], in one forward."""
    return reference(torch.tensor([token_ids])).logits[0]


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.3, "logits too flat to tell models apart"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
