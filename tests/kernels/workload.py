"""What a native model is run on: a prompt in a paged cache, a tree behind it."""

from collections.abc import Sequence

import torch

from server.models.causal_lm import CausalLM
from tests.kernels.native_models import (
    random_tokens,
)
from tests.kernels.paged import Nodes, PagedModel

TREE = (-1, 0, 1, 2, 0, 1, 4, 6)
"""Trunk 0 1 2 3; leaves 4 and 5 beside it; 6 and 7 hang on leaf 4.

    0 - 1 - 2 - 3
    |   '-- 5
    '-- 4 - 6 - 7
"""
CONTEXT = 37
TOKENS = random_tokens(60)
TREE_TOKENS = random_tokens(len(TREE), seed=1)


def workload(model: CausalLM, block_size: int) -> torch.Tensor:
    """Prefill of two sequences, trees on both, then a chain: logits of all rows."""
    pool = PagedModel(model, num_sequences=2, max_tokens=96, block_size=block_size)
    return torch.cat(
        (
            pool.step(Nodes(0, 0, TOKENS[:CONTEXT]), Nodes(1, 0, TOKENS[:5])),
            pool.step(
                Nodes(0, CONTEXT, TREE_TOKENS, TREE), Nodes(1, 5, TREE_TOKENS[:3], (-1, 0, 0))
            ),
            pool.step(Nodes(1, 5, TOKENS[5:50]), Nodes(0, CONTEXT, TOKENS[:1])),
        )
    )


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).square().mean().sqrt())


def one_by_one(model: CausalLM, tokens: Sequence[int]) -> torch.Tensor:
    return PagedModel(model, block_size=16).run(tokens, [1] * len(tokens))


def path_to(node: int) -> list[int]:
    return [*(path_to(TREE[node]) if TREE[node] >= 0 else []), node]
