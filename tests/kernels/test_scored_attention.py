"""Scored attention in torch, in parts: how many keys and scores are held at once changes no
result."""

from collections.abc import Sequence

import pytest
import torch

from server.kernels import scored_attention as module
from server.kernels.scored_attention import scored_attention
from server.kernels.tree import LayerCache
from server.kernels.types import ScoreRules
from tests.kernels.paged import Nodes, garbage_cache, shuffled_tables, tree_batch

BLOCK, KV_HEADS, HEADS, DIM = 4, 2, 6, 8
PARENTS = [-1, 0, 0, 1, 1, 2, -1]
STEPS: dict[str, Sequence[Nodes]] = {
    "prompt": [Nodes(0, 0, range(90))],
    "chunk": [Nodes(1, 57, range(43))],
    "trees": [Nodes(0, 61, range(7), PARENTS), Nodes(1, 66, range(7), PARENTS)],
    "one token each": [Nodes(0, 77, [1]), Nodes(1, 65, [1]), Nodes(2, 3, [1])],
}
RULES = {
    "plain": ScoreRules(0.3),
    "window": ScoreRules(0.3, window=9, softcap=4.0),
    "chunks": ScoreRules(0.3, chunk=16),
    "sinks": ScoreRules(0.3, softcap=4.0, sinks=torch.linspace(-1, 2, HEADS)),
}


class Shapes:
    """Stands in for `_attend`, and notes its sizes."""

    def __init__(self) -> None:
        self.scores, self.keys = list[int](), list[int]()
        self._attend = module._attend  # pyright: ignore[reportPrivateUsage]

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, *rest: torch.Tensor | ScoreRules
    ) -> torch.Tensor:
        self.scores.append(query[..., 0].numel() * keys.shape[2])
        self.keys.append(keys.shape[2])
        return self._attend(query, keys, *rest)  # pyright: ignore[reportArgumentType]


def by_hand(
    query: torch.Tensor, cache: LayerCache, tables: torch.Tensor, step: Nodes, rules: ScoreRules
) -> torch.Tensor:
    """Of a chain, row by row and head by head."""
    pools = (pool[tables[step.sequence]].flatten(0, 1).double() for pool in cache)
    keys, values = pools
    rows = list[torch.Tensor]()
    for row, place in enumerate(range(step.context, step.context + len(step.token_ids))):
        first = 0 if rules.window is None else max(0, place - rules.window + 1)
        first = first if rules.chunk is None else place // rules.chunk * rules.chunk
        for head in range(HEADS):
            seen = slice(first, place + 1), head // (HEADS // KV_HEADS)
            scores = keys[seen] @ query[row, head].double() * rules.scale
            if rules.softcap is not None:
                scores = torch.tanh(scores / rules.softcap) * rules.softcap
            if rules.sinks is not None:
                scores = torch.cat((scores, rules.sinks[head : head + 1].double()))
            weights = scores.softmax(0)[: place + 1 - first]
            rows.append(weights @ values[seen])
    return torch.stack(rows).view(len(query), HEADS, DIM)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_parts_change_nothing(
    step: Sequence[Nodes], rules: ScoreRules, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = shuffled_tables(3, 25, seed=3)
    torch.manual_seed(5)
    cache = LayerCache(*(pool.to(dtype) for pool in garbage_cache(75, BLOCK, KV_HEADS, DIM)))
    cache.keys.mul_(1e-3)
    rows = sum(len(nodes.token_ids) for nodes in step)
    query = torch.randn(rows, HEADS, DIM).to(dtype)
    whole = scored_attention(query, cache, tree_batch(tables, BLOCK, step), rules)
    shapes = Shapes()
    monkeypatch.setattr(module, "_attend", shapes)
    is_parted = not rules.is_plain
    for limit in (1, 2**10, 2**12):
        monkeypatch.setattr(module, "_SCORES_AT_ONCE", limit)
        parts = scored_attention(query, cache, tree_batch(tables, BLOCK, step), rules)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=0.01)
        one_node = HEADS * 100 * 3
        assert not is_parted or max(shapes.scores) <= max(limit, one_node)
        shapes.scores.clear()
    if is_parted and (rules.window or rules.chunk) and rows > 40:
        assert min(shapes.keys) <= (rules.window or rules.chunk or 0) + BLOCK
    if len(step) == 1:
        exact = by_hand(query, cache, tables, step[0], rules)
        error = (whole - exact).abs().max() / exact.abs().max()
        assert error < (0.01 if dtype is torch.bfloat16 else 1e-5)
