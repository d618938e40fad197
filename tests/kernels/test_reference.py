"""The reference kernels against computations node by node, written from the definitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels import reference
from server.kernels.tree import LayerCache, TreeBatch
from tests.kernels.paged import GARBAGE, Nodes, garbage_cache, shuffled_tables, tree_batch


@dataclass(frozen=True, slots=True)
class Case:
    """A step of several sequences; only counts matter to attention, so token ids are 0."""

    step: tuple[Nodes, ...]
    block_size: int
    kv_heads: int
    queries_per_kv: int
    head_dim: int
    window: int | None
    seed: int


@st.composite
def trees(draw: st.DrawFn) -> tuple[int, ...]:
    """Parents of up to 9 nodes, each before its children; several may hang on the context."""
    size = draw(st.integers(1, 9))
    return tuple(draw(st.integers(-1, node - 1)) for node in range(size))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    step = list[Nodes]()
    for sequence in range(draw(st.integers(1, 5))):
        context = draw(st.one_of(st.integers(0, 12), st.integers(60, 70)))
        chain = draw(st.sampled_from((None, None, 1, 3, 40)))
        parents = draw(trees()) if chain is None else tuple(range(-1, chain - 1))
        step.append(Nodes(sequence, context, [0] * len(parents), parents))
    if draw(st.booleans()):  # a step of chains alone, which has no mask
        step = [Nodes(n.sequence, n.context, n.token_ids) for n in step]
    return Case(
        step=tuple(step),
        block_size=draw(st.sampled_from((1, 3, 4, 16))),
        kv_heads=draw(st.integers(1, 3)),
        queries_per_kv=draw(st.sampled_from((1, 2, 3, 8))),
        head_dim=draw(st.sampled_from((2, 8, 20))),
        window=draw(st.sampled_from((None, None, 1, 4, 64))),
        seed=draw(st.integers(0, 1000)),
    )


def path_of(parents: Sequence[int], node: int) -> list[int]:
    """Ancestors of a node and itself, root first."""
    path = list[int]()
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def naive_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None
) -> torch.Tensor:
    """The last token's attention over a dense chain.

    query: [heads, head_dim]; keys, values: [tokens, kv_heads, head_dim].
    """
    if window is not None:
        keys, values = keys[-window:], values[-window:]
    heads = list[torch.Tensor]()
    for head, row in enumerate(query):
        kv_head = head // (len(query) // keys.shape[1])
        scores = keys[:, kv_head] @ row / math.sqrt(len(row))
        heads.append(torch.softmax(scores, 0) @ values[:, kv_head])
    return torch.stack(heads)


def expected_rows(
    case: Case, query: torch.Tensor, new: LayerCache, committed: Sequence[LayerCache]
) -> torch.Tensor:
    """new: KV of the step's rows; committed: per sequence, its context's."""
    rows, start = list[torch.Tensor](), 0
    for nodes, past in zip(case.step, committed, strict=True):
        for node in range(len(nodes.token_ids)):
            path = [start + i for i in path_of(nodes.node_parents(), node)]
            keys = torch.cat((past.keys, new.keys[path]))
            values = torch.cat((past.values, new.values[path]))
            rows.append(naive_attention(query[start + node], keys, values, case.window))
        start += len(nodes.token_ids)
    return torch.stack(rows)


def context_slots(nodes: Nodes, tables: torch.Tensor, block_size: int) -> torch.Tensor:
    tokens = range(nodes.context)
    blocks = [int(tables[nodes.sequence, token // block_size]) for token in tokens]
    return torch.tensor(
        [
            block * block_size + token % block_size
            for block, token in zip(blocks, tokens, strict=True)
        ],
        dtype=torch.int64,
    )


def random_kv(rows: int, case: Case) -> LayerCache:
    keys, values = torch.randn(2, rows, case.kv_heads, case.head_dim)
    return LayerCache(keys, values)


def run_case(case: Case) -> None:
    torch.manual_seed(case.seed)
    longest = max(nodes.context + len(nodes.token_ids) for nodes in case.step)
    num_blocks = -(-longest // case.block_size) + 1
    tables = shuffled_tables(len(case.step), num_blocks, case.seed)
    cache = garbage_cache(tables.numel(), case.block_size, case.kv_heads, case.head_dim)
    batch = tree_batch(tables, case.block_size, case.step)
    committed = [random_kv(nodes.context, case) for nodes in case.step]
    for nodes, past in zip(case.step, committed, strict=True):
        reference.write_kv(*past, cache, context_slots(nodes, tables, case.block_size))
    rows = len(batch.positions)
    new = random_kv(rows, case)
    reference.write_kv(*new, cache, batch.slots)
    query = torch.randn(rows, case.kv_heads * case.queries_per_kv, case.head_dim)
    actual = reference.tree_attention(query, cache, batch, case.window)
    expected = expected_rows(case, query, new, committed)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    again = reference.tree_attention(query, cache, batch, case.window)  # groups prepared by now
    assert torch.equal(again, actual)


@settings(max_examples=120, deadline=None)
@given(cases())
def test_tree_attention(case: Case) -> None:
    run_case(case)


def test_groups_of_very_different_lengths() -> None:
    """A long prefill chunk, decode nodes on short and long contexts, and trees, in one step."""
    step = (
        Nodes(0, 0, [0] * 90),
        Nodes(1, 300, [0]),
        Nodes(2, 1, [0] * 4, (-1, 0, 0, 1)),
        Nodes(3, 5, [0] * 90),
        Nodes(4, 290, [0] * 3, (-1, -1, 1)),
        Nodes(5, 0, [0]),
    )
    run_case(Case(step, 4, kv_heads=2, queries_per_kv=3, head_dim=8, window=None, seed=1))


def test_windows_of_one_batch_do_not_mix() -> None:
    """Layers with different windows share the prepared groups, not the masks."""
    torch.manual_seed(0)
    tables = shuffled_tables(1, 8, seed=0)
    cache = garbage_cache(8, 4, kv_heads=1, head_dim=8)
    for pool in cache:
        pool.copy_(torch.randn(pool.shape))
    nodes = Nodes(0, 20, [0])
    query = torch.randn(1, 2, 8)
    shared = tree_batch(tables, 4, (nodes,))
    for window in (3, None, 5):
        fresh: TreeBatch = tree_batch(tables, 4, (nodes,))
        expected = reference.tree_attention(query, cache, fresh, window)
        assert torch.equal(reference.tree_attention(query, cache, shared, window), expected)


def test_write_kv_touches_its_slots_alone() -> None:
    cache = garbage_cache(num_blocks=5, block_size=4, kv_heads=2, head_dim=3)
    before = LayerCache(cache.keys.clone(), cache.values.clone())
    keys, values = torch.randn(2, 3, 2, 3)
    slots = torch.tensor([17, 0, 6])
    reference.write_kv(keys, values, cache, slots)
    for pool, old, new in zip(cache, before, (keys, values), strict=True):
        for row, slot in enumerate(slots.tolist()):
            block, offset = divmod(slot, 4)
            assert torch.equal(pool[block, offset], new[row])
            old[block, offset] = new[row]
        assert torch.equal(pool, old)
    assert float(cache.keys.abs().max()) > GARBAGE / 10


@pytest.mark.parametrize("position", [0, 1, 1000])
def test_rotary_turns_pairs_of_halves(position: int) -> None:
    """Element i and i + dim/2 are a complex number, multiplied by e^(i angle)."""
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    angles = position * torch.tensor([1.0, 0.3, 0.01, 0.002], dtype=torch.float64)
    both = torch.cat((angles, angles)).view(1, 1, 8)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(4).double(), angles)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(reference.rotary(x, both.cos(), both.sin()), expected)


def test_silu_mul_takes_the_gate_first() -> None:
    gate_up = torch.tensor([[-1.0, 2.0, 0.0, 3.0, 5.0, 7.0]])
    expected = [g / (1 + math.exp(-g)) * u for g, u in ((-1.0, 3.0), (2.0, 5.0), (0.0, 7.0))]
    torch.testing.assert_close(reference.silu_mul(gate_up), torch.tensor([expected]))


def test_rms_norm() -> None:
    x, weight = torch.tensor([[3.0, -4.0], [1e-4, 0.0]]), torch.tensor([2.0, 0.5])
    expected = [
        [value / math.sqrt((a * a + b * b) / 2 + 1e-5) * w for value, w in ((a, 2.0), (b, 0.5))]
        for a, b in ((3.0, -4.0), (1e-4, 0.0))
    ]
    torch.testing.assert_close(reference.rms_norm(x, weight, 1e-5), torch.tensor(expected))
