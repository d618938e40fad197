"""Native attention alone: as exact as its precision allows, and bit-identical however a row comes
to be computed."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch

from server.kernels.cpu.attention import NativeAttention, supports_attention
from server.kernels.scored_attention import scored_attention_for, write_and_attend
from server.kernels.tree import LayerCache
from server.kernels.types import ScoredAttention, ScoreRules
from tests.kernels.native_models import needs_native, without_native_library
from tests.kernels.paged import CPU, Nodes, garbage_cache, shuffled_tables, tree_batch

pytestmark = needs_native()

BLOCK, SEQUENCES, LENGTH = 4, 3, 90
PARENTS = (-1, 0, 1, 2, 0, 1, 1, 5)
"""A trunk of four, a leaf beside its second node, two beside its third, and a node below one."""
RULES = {
    "plain": ScoreRules(0.3),
    "window": ScoreRules(0.3, window=9),
    "capped window": ScoreRules(0.3, window=70, softcap=4.0),
    "chunks": ScoreRules(0.3, chunk=16),
    "sinks": ScoreRules(0.3, sinks=torch.linspace(-1, 2, 8)),
    "everything": ScoreRules(
        0.5, window=40, chunk=64, softcap=2.5, sinks=torch.linspace(2, -1, 8).bfloat16()
    ),
}
DTYPES = torch.bfloat16, torch.float32


class Sizes(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int


SIZES = {
    "64": Sizes(8, 4, 64, 64),
    "80": Sizes(8, 2, 80, 80),
    "8": Sizes(8, 8, 8, 8),
    "odd": Sizes(8, 2, 37, 37),
    "narrow values": Sizes(8, 8, 96, 40),
    "256": Sizes(8, 1, 256, 256),
}


class Paged:
    """A pool, and the queries, keys and values that tokens have."""

    def __init__(self, sizes: Sizes, rules: ScoreRules, dtype: torch.dtype) -> None:
        self.sizes, self.rules = sizes, rules
        self.tables = shuffled_tables(SEQUENCES, LENGTH // BLOCK + 4, seed=3)
        torch.manual_seed(5)
        pool = garbage_cache(self.tables.numel(), BLOCK, sizes.kv_heads, sizes.head_dim)
        self.cache = LayerCache(pool.keys.to(dtype), pool.values.to(dtype))
        self.query, self.keys, self.values = (
            torch.randn(1, heads, 2 * LENGTH, dim).to(dtype)
            for heads, dim in (
                (sizes.heads, sizes.head_dim),
                (sizes.kv_heads, sizes.head_dim),
                (sizes.kv_heads, sizes.value_dim),
            )
        )

    def step(self, attend: ScoredAttention, *step: Nodes) -> torch.Tensor:
        """[rows, heads, value_dim]"""
        ids = [token for nodes in step for token in nodes.token_ids]
        run = range(ids[0], ids[0] + len(ids))
        ours = (
            slice(run.start, run.stop) if ids == list(run) else torch.tensor(ids)
        )  # a view, or not
        batch = tree_batch(self.tables, BLOCK, step)
        query, keys, values = (part[:, :, ours] for part in (self.query, self.keys, self.values))
        return attend(query, keys, values, self.cache, batch, self.rules)[0]

    def one_by_one(self, attend: ScoredAttention, sequence: int = 0) -> torch.Tensor:
        """Tokens 0 … LENGTH - 1."""
        steps = (self.step(attend, Nodes(sequence, at, [at])) for at in range(LENGTH))
        return torch.cat(list(steps))

    def exact(self) -> torch.Tensor:
        """The same in float64, head by head."""
        sizes, rules = self.sizes, self.rules
        place = torch.arange(LENGTH)
        at, of = place[:, None], place[None, :]
        seen = of <= at
        if rules.window is not None:
            seen &= at - of < rules.window
        if rules.chunk is not None:
            seen &= at // rules.chunk == of // rules.chunk
        heads = list[torch.Tensor]()
        for head in range(sizes.heads):
            kv_head = head * sizes.kv_heads // sizes.heads
            scores = (
                self.query[0, head, :LENGTH].double() @ self.keys[0, kv_head, :LENGTH].double().T
            )
            scores *= rules.scale
            if rules.softcap is not None:
                scores = torch.tanh(scores / rules.softcap) * rules.softcap
            scores = scores.masked_fill(~seen, float("-inf"))
            sink = float("-inf") if rules.sinks is None else float(rules.sinks[head])
            scores = torch.cat((scores, torch.full((LENGTH, 1), sink)), dim=1)
            weights = scores.softmax(dim=1)[:, :-1]
            heads.append(weights @ self.values[0, kv_head, :LENGTH].double())
        return torch.stack(heads, dim=1)


def error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return float((actual - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("sizes", SIZES)
def test_error_is_at_most_that_of_torch(sizes: str, rules: str, dtype: torch.dtype) -> None:
    """At most twice that in float32, where a sum is one chain."""
    paged = Paged(SIZES[sizes], RULES[rules], dtype)
    exact = paged.exact()
    actual = paged.step(NativeAttention(1), Nodes(0, 0, range(LENGTH)))
    torchs = paged.step(write_and_attend, Nodes(1, 0, range(LENGTH)))
    assert actual.dtype is dtype
    factor = 1 if dtype is torch.bfloat16 else 2
    assert error(actual, exact) <= factor * error(torchs, exact) < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("sizes", SIZES)
def test_chunks_threads_and_company_change_no_bit(
    sizes: str, rules: str, dtype: torch.dtype
) -> None:
    paged = Paged(SIZES[sizes], RULES[rules], dtype)
    attend = NativeAttention(2)
    alone = paged.one_by_one(NativeAttention(1))
    other = paged.step(attend, Nodes(1, 0, range(60, 131)))
    first = paged.step(
        attend, Nodes(0, 0, range(33)), Nodes(2, 0, range(LENGTH)), Nodes(1, 71, [131])
    )
    assert torch.equal(first[:33], alone[:33])
    assert torch.equal(first[33:-1], alone)
    second = paged.step(attend, Nodes(1, 70, range(130, 140)), Nodes(0, 33, range(33, LENGTH)))
    assert torch.equal(second[10:], alone[33:])
    assert torch.equal(second[0], other[70])


def paths(parents: Sequence[int]) -> list[list[int]]:
    """Of each node, from the root to itself."""
    found = list[list[int]]()
    for node, parent in enumerate(parents):
        found.append([*(found[parent] if parent >= 0 else []), node])
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("context", [60, 61])
def test_tree_equals_the_chain_of_each_path(
    rules: str, dtype: torch.dtype, context: int, sizes: str = "80"
) -> None:
    paged = Paged(SIZES[sizes], RULES[rules], dtype)
    attend = NativeAttention(2)
    paged.step(attend, Nodes(0, 0, range(context)), Nodes(1, 0, range(context)))
    tokens = range(context, context + len(PARENTS))
    tree = paged.step(
        attend, Nodes(1, context, [100, 101, 102], (-1, 0, 0)), Nodes(0, context, tokens, PARENTS)
    )
    for node, path in enumerate(paths(PARENTS)):
        chain = paged.step(attend, Nodes(0, context, [tokens[i] for i in path]))
        assert torch.equal(chain[-1], tree[3 + node])


def test_values_narrower_than_keys_have_zeros_behind_them() -> None:
    paged = Paged(SIZES["narrow values"], RULES["plain"], torch.float32)
    paged.step(NativeAttention(1), Nodes(0, 0, range(8)))
    for slot in range(8):
        written = paged.cache.values[paged.tables[0, slot // BLOCK], slot % BLOCK]
        assert torch.equal(written[:, :40], paged.values[0, :, slot])
        assert not written[:, 40:].any()


def test_who_attends_where() -> None:
    assert isinstance(scored_attention_for(CPU, torch.bfloat16), NativeAttention)
    assert not supports_attention(CPU, torch.float16)
    assert not supports_attention(torch.device("cuda"), torch.bfloat16)
    with without_native_library():
        assert scored_attention_for(CPU, torch.bfloat16) is write_and_attend
