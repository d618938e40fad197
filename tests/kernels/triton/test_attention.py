"""Triton's attention against the reference: random trees, tables, windows; no unseen KV."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels import reference
from server.kernels.tree import LayerCache, TreeBatch, committed_view, strictly_earlier_view
from server.kernels.triton import attention
from tests.kernels.paged import Nodes, shuffled_tables, tree_batch
from tests.kernels.triton.device import DEVICE, poisoned, randn


@dataclass(frozen=True, slots=True)
class Case:
    """A step and the sizes of its attention."""

    step: tuple[Nodes, ...]
    block_size: int
    kv_heads: int
    group: int
    head_dim: int
    window: int | None
    seed: int


@st.composite
def steps(draw: st.DrawFn) -> tuple[Nodes, ...]:
    """Prompts' chunks, decoding and trees in one step, or chains alone, which have no mask."""
    step = list[Nodes]()
    only_chains = draw(st.booleans())
    for sequence in range(draw(st.integers(1, 3))):
        context = draw(st.sampled_from((1, 2, 15, 17, 255, 256, 257, 300)))
        size = draw(st.sampled_from((1, 1, 2, 7, 21)))
        parents = None
        if not only_chains:
            parents = tuple(draw(st.integers(-1, node - 1)) for node in range(size))
        step.append(Nodes(sequence, context, [0] * size, parents))
    return tuple(step)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        step=draw(steps()),
        block_size=draw(st.sampled_from((1, 3, 16))),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.sampled_from((1, 3, 8))),
        head_dim=draw(st.sampled_from((2, 20, 64, 80))),
        window=draw(st.sampled_from((None, None, 1, 5, 256))),
        seed=draw(st.integers(0, 1000)),
    )


def on_device(batch: TreeBatch) -> TreeBatch:
    return replace(
        batch,
        positions=batch.positions.to(DEVICE),
        slots=batch.slots.to(DEVICE),
        block_tables=batch.block_tables.to(DEVICE),
        ancestors=None if batch.ancestors is None else batch.ancestors.to(DEVICE),
        prepared={},
    )


def filled(case: Case, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[
    TreeBatch, LayerCache
]:  # fmt: skip
    """The step, over a pool that holds its sequences' KV, its own nodes' too, and NaN elsewhere."""
    longest = max(nodes.context + len(nodes.token_ids) for nodes in case.step)
    tables = shuffled_tables(len(case.step), -(-longest // case.block_size), case.seed)
    batch = tree_batch(tables, case.block_size, case.step)
    shape = (tables.numel(), case.block_size, case.kv_heads, case.head_dim)
    cache = LayerCache(poisoned(*shape, dtype=dtype), poisoned(*shape, dtype=dtype))
    slots = list[int](batch.slots.tolist())
    for row, nodes in zip(tables.tolist(), case.step, strict=True):
        slots += [
            row[t // case.block_size] * case.block_size + t % case.block_size
            for t in range(nodes.context)
        ]
    for index, pool in enumerate(cache):
        own = randn(len(slots), *shape[2:], seed=case.seed + seed + index, dtype=dtype)
        pool.view(-1, *shape[2:])[torch.tensor(slots, device=DEVICE)] = own
    return on_device(batch), cache


def without_nan(cache: LayerCache) -> LayerCache:
    """For the reference, which weighs what it doesn't see with 0."""
    return LayerCache(cache.keys.nan_to_num(0.0), cache.values.nan_to_num(0.0))


def query_of(case: Case, batch: TreeBatch, layers: Sequence[int] = ()) -> torch.Tensor:
    heads = case.kv_heads * case.group
    return randn(len(batch.positions), *layers, heads, case.head_dim, seed=case.seed + 9)


def check(case: Case, batch: TreeBatch, cache: LayerCache) -> None:
    query = query_of(case, batch)
    found = attention.tree_attention(query, cache, batch, case.window)
    expected = reference.tree_attention(
        query, without_nan(cache), replace(batch, prepared={}), case.window
    )
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_equals_the_reference(case: Case) -> None:
    check(case, *filled(case))


TREE = Nodes(0, 270, [0] * 6, (-1, 0, 0, 1, 3, -1))
PLAIN = Case((TREE, Nodes(1, 33, [0])), 16, 2, 4, 64, None, 3)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (2, 4), (1, 24)])
def test_sizes_of_heads(head_dim: int, kv_heads: int, group: int) -> None:
    case = replace(PLAIN, head_dim=head_dim, kv_heads=kv_heads, group=group)
    check(case, *filled(case))


# Triton's interpreter multiplies bfloat16 as the integers that hold it.
HALVES = [torch.float16, torch.bfloat16] if DEVICE.type == "cuda" else [torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype: torch.dtype) -> None:
    """Against float32 over the same rounded numbers; weights too are rounded."""
    batch, cache = filled(PLAIN, dtype=dtype)
    query = query_of(PLAIN, batch).to(dtype)
    found = attention.tree_attention(query, cache, batch, None)
    wide = LayerCache(cache.keys.float(), cache.values.float())
    expected = reference.tree_attention(
        query.float(), without_nan(wide), replace(batch, prepared={}), None
    )
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


def test_a_long_prompt_is_cut_into_tiles() -> None:
    case = replace(PLAIN, step=(Nodes(0, 20, [0] * 130), Nodes(1, 5, [0])))
    check(case, *filled(case))


def test_the_glimpse_sees_committed_tokens_alone() -> None:
    """Also of a sequence whose verified length lies behind its context."""
    batch, cache = filled(PLAIN)
    check(PLAIN, committed_view(batch, (267, 33)), cache)
    check(replace(PLAIN, window=40), committed_view(batch, (267, 33)), cache)


def test_filling_sees_earlier_tokens_alone() -> None:
    case = replace(PLAIN, step=(Nodes(0, 20, [0] * 30), Nodes(1, 5, [0] * 2)))
    batch, cache = filled(case)
    check(case, strictly_earlier_view(batch), cache)


def test_a_row_that_sees_nothing_is_zero() -> None:
    case = replace(PLAIN, step=(Nodes(0, 0, [0] * 2),))
    batch, cache = filled(case)
    found = attention.tree_attention(
        query_of(case, batch), cache, strictly_earlier_view(batch), None
    )
    assert bool((found[0] == 0).all())
    assert bool((found[1] != 0).any())


def test_several_layers_in_one_launch() -> None:
    windows = (None, 7, 256)
    pairs = [filled(PLAIN, seed) for seed in range(3)]
    batch, caches = pairs[0][0], [cache for _, cache in pairs]
    view = committed_view(batch, (270, 33))
    query = query_of(PLAIN, batch, (3,))
    found = attention.glimpse_attention(query, caches, view, windows)
    expected = reference.glimpse_attention(
        query, [without_nan(cache) for cache in caches], replace(view, prepared={}), windows
    )
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_row_is_the_same_alone_and_among_others() -> None:
    """Bit for bit, whatever else the step holds: splits begin at multiples of a fixed length."""
    case = replace(PLAIN, step=(TREE, Nodes(1, 33, [0]), Nodes(2, 300, [0] * 6)))
    batch, cache = filled(case)
    query = query_of(case, batch)
    together = attention.tree_attention(query, cache, batch, None)
    assert batch.ancestors is not None
    alone = TreeBatch(
        positions=batch.positions[:6],
        slots=batch.slots[:6],
        block_tables=batch.block_tables[:1],
        context_lens=batch.context_lens[:1],
        node_counts=batch.node_counts[:1],
        ancestors=batch.ancestors[:6, :6].contiguous(),
        block_size=batch.block_size,
    )
    assert torch.equal(
        attention.tree_attention(query[:6].contiguous(), cache, alone, None), together[:6]
    )


@pytest.mark.parametrize("context", [40, 600, 2100])
def test_splits_of_long_contexts_are_few_and_equally_long(
    context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SPLIT", 64)
    monkeypatch.setattr(attention, "_MOST_SPLITS", 4)
    case = replace(PLAIN, step=(Nodes(0, context, [0] * 3), Nodes(1, 70, [0])))
    check(case, *filled(case))


def test_rows_do_not_depend_on_what_else_is_in_the_step() -> None:
    """Bit for bit: a sequence beside a prompt's chunk and a long context, and alone."""
    case = replace(PLAIN, step=(Nodes(0, 300, [0] * 2), Nodes(1, 2, [0] * 70)))
    batch, cache = filled(case)
    query = query_of(case, batch)
    together = attention.tree_attention(query, cache, batch, None)[:2]
    alone = replace(
        batch,
        positions=batch.positions[:2],
        slots=batch.slots[:2],
        block_tables=batch.block_tables[:1],
        context_lens=batch.context_lens[:1],
        node_counts=batch.node_counts[:1],
        prepared={},
    )
    assert torch.equal(attention.tree_attention(query[:2], cache, alone, None), together)


def test_a_step_larger_than_the_workspace_is_several_launches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = replace(PLAIN, step=(Nodes(0, 20, [0] * 50), Nodes(1, 300, [0] * 9)))
    batch, cache = filled(case)
    whole = attention.tree_attention(query_of(case, batch), cache, batch, None)
    monkeypatch.setattr(attention, "ATTENTION_WORKSPACE", 1)
    assert torch.equal(
        attention.tree_attention(query_of(case, batch), cache, replace(batch, prepared={}), None),
        whole,
    )


@pytest.mark.parametrize(
    ("most_rows", "expected"),
    [(100, [(0, 4)]), (7, [(0, 2), (2, 4)]), (3, [(0, 1), (1, 2), (2, 3), (3, 4)])],
)
def test_launches(
    most_rows: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "ATTENTION_WORKSPACE", most_rows * 10)
    launches = attention._launches((0, 3, 7, 9, 13), 10)  # pyright: ignore[reportPrivateUsage]
    assert launches == expected


@pytest.mark.parametrize("kernels", ["triton", "torch"])
def test_lengths_that_the_device_alone_knows(kernels: str) -> None:
    """The host's limits size the launch; masks follow the exact lengths."""
    trees = (-1, 0, 0, 1)
    case = replace(PLAIN, step=tuple(Nodes(i, n, [0] * 4, trees) for i, n in enumerate((5, 290))))
    batch, cache = filled(case)
    query = query_of(case, batch)
    exact = torch.tensor(batch.context_lens, device=DEVICE)
    limits = replace(batch, context_lens=(310, 310), exact_lens=exact, prepared={})
    attend = attention if kernels == "triton" else reference
    visible = torch.tensor((2, 100), device=DEVICE)
    views = [(batch, limits), (committed_view(batch, (2, 100)), committed_view(limits, visible))]
    for known, unknown in views:
        found = attend.tree_attention(query, without_nan(cache), unknown, 40)
        expected = reference.tree_attention(query, without_nan(cache), known, 40)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
