"""Sample-and-match on forced logits: same tokens as node by node, and under their own ancestors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.engine.speculation.tree import TokenTree, comb, lone_root
from server.engine.step.host import accept as accept_module
from server.engine.step.host.accept import Verification, accept
from server.engine.step.sampler import Sampled, SamplerRow, sample
from server.engine.types import SamplingParams

VOCAB = 10
STOP = frozenset({9})
Tokens = tuple[int, ...]


def row(output: Sequence[int] = (), **params: Any) -> SamplerRow:
    given_params: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0} | params
    return SamplerRow(SamplingParams(**given_params), (0,), output, STOP)


def forced(tree: TokenTree, wanted: dict[int, dict[int, float]]) -> torch.Tensor:
    """Logits [nodes, vocab] of a tree: zero, but for what is wanted of a node's tokens."""
    logits = torch.zeros(len(tree), VOCAB)
    for node, values in wanted.items():
        for token_id, value in values.items():
            logits[node, token_id] = value
    return logits


def walked(
    tree: TokenTree, wanted: dict[int, dict[int, float]], sampler_row: SamplerRow
) -> Verification:
    walk = Verification(tree, first_row=0, row=sampler_row)
    accept(forced(tree, wanted), [walk])
    return walk


TRUNK = comb(8, (1, 2), ((3,), (4, 5)))
"""Nodes: 8, 1, 2, then 3 beside 1, then 4 and 5 beside 2."""


def test_the_whole_trunk_and_a_bonus_token() -> None:
    walk = walked(TRUNK, {0: {1: 5.0}, 1: {2: 5.0}, 2: {7: 5.0}}, row())
    assert (walk.path, walk.token_ids) == ([0, 1, 2], [1, 2, 7])


def test_a_leaf_ends_the_path_with_its_own_bonus_token() -> None:
    walk = walked(TRUNK, {0: {1: 5.0}, 1: {5: 5.0}, 5: {6: 5.0}}, row())
    assert (walk.path, walk.token_ids) == ([0, 1, 5], [1, 5, 6])


def test_a_miss_emits_the_targets_token() -> None:
    walk = walked(TRUNK, {0: {6: 5.0}}, row())
    assert (walk.path, walk.token_ids) == ([0], [6])
    assert walk.logprobs == []


def test_walks_of_different_lengths_share_one_table() -> None:
    """The second tree's rows come after the first's six, and end a round earlier."""
    trees = (TRUNK, comb(8, (1,), ()), lone_root(8))
    logits = torch.cat(
        [
            forced(trees[0], {0: {1: 5.0}, 1: {2: 5.0}, 2: {7: 5.0}}),
            forced(trees[1], {0: {1: 5.0}, 1: {6: 5.0}}),
            forced(trees[2], {0: {3: 5.0}}),
        ]
    )
    walks = [
        Verification(t, first_row=first, row=row())
        for t, first in zip(trees, (0, 6, 8), strict=True)
    ]
    accept(logits, walks)
    assert [walk.token_ids for walk in walks] == [[1, 2, 7], [1, 6], [3]]


def test_a_penalty_counts_tokens_accepted_in_the_same_step() -> None:
    """Below node 1 token 1 leads by 1. Having just been accepted it pays 1.5, and 2 comes first;
    had 2 not been reached through 1, nothing would be paid."""
    wanted = {0: {1: 5.0}, 1: {1: 3.0, 2: 2.0}, 2: {7: 5.0}}
    assert walked(TRUNK, wanted, row()).token_ids == [1, 1]
    assert walked(TRUNK, wanted, row(presence_penalty=1.5)).token_ids == [1, 2, 7]
    through_leaf = {0: {3: 5.0}, 3: {1: 3.0, 2: 2.0}}
    assert walked(TRUNK, through_leaf, row(presence_penalty=1.5)).token_ids == [3, 1]


def test_a_frequency_penalty_adds_up_along_the_path() -> None:
    """Token 1 thrice: each acceptance takes 1 from its lead of 2.5."""
    tree = comb(8, (1, 1, 1, 1), ())
    wanted = {node: {1: 3.5, 6: 1.0} for node in range(len(tree))}
    assert walked(tree, wanted, row(frequency_penalty=1.0)).token_ids == [1, 1, 1, 6]


def test_siblings_do_not_penalise_each_other() -> None:
    """Presence of 3, a node's sibling, is nothing to the path through 1."""
    wanted = {0: {1: 5.0}, 1: {3: 3.0, 2: 2.0}}
    assert walked(TRUNK, wanted, row(presence_penalty=1.5)).token_ids == [1, 3]


def test_min_tokens_ends_inside_a_path() -> None:
    """Stop token 9 always leads; two tokens must come first, one of them is out already."""
    tree = comb(8, (1, 2), ((9,), (9,)))
    wanted = {0: {9: 6.0, 1: 5.0}, 1: {9: 6.0, 2: 5.0}, 2: {9: 6.0}}
    assert walked(tree, wanted, row()).path == [0, 3]
    assert walked(tree, wanted, row((6,), min_tokens=2)).token_ids[:2] == [1, 9]
    assert walked(tree, wanted, row(min_tokens=2)).token_ids == [1, 2, 9]


def test_logprobs_are_those_of_the_nodes_raw_logits() -> None:
    torch.manual_seed(0)
    logits = torch.randn(len(TRUNK), VOCAB)
    logits[0, 1] = logits[1, 4] = 9.0
    walk = Verification(
        TRUNK, first_row=0, row=row(logprobs=2, presence_penalty=1.0, temperature=0.5)
    )
    accept(logits, [walk])
    assert walk.path == [0, 1, 4]
    expected = logits.log_softmax(dim=-1)
    for node, token_id, found in zip(walk.path, walk.token_ids, walk.logprobs, strict=True):
        assert found.token_id == token_id
        assert abs(found.logprob - float(expected[node, token_id])) < 1e-6
        assert [t for t, _ in found.top] == logits[node].topk(2).indices.tolist()


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    """Any tree of up to 12 nodes over a small vocabulary: the smaller, the more is accepted."""
    tokens, parents, used = [0], list[int](), set[tuple[int, int]]()
    for _ in range(draw(st.integers(0, 11))):
        key = draw(st.integers(0, len(tokens) - 1)), draw(st.integers(0, 3))
        if key not in used:
            used.add(key)
            parents.append(key[0])
            tokens.append(key[1])
    return TokenTree(tuple(tokens), tuple(parents))


@st.composite
def combs(draw: st.DrawFn) -> TokenTree:
    """Any trunk of up to 12 tokens, with leaves beside some of them."""
    trunk = draw(st.lists(st.integers(0, 3), max_size=12))
    leaves = [draw(st.sets(st.integers(0, 3).filter(t.__ne__), max_size=2)) for t in trunk]
    return comb(0, trunk, [sorted(some) for some in leaves])


@given(
    batch=st.lists(trees() | combs(), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([0.0, 0.5]),
    min_tokens=st.sampled_from([0, 2, 4]),
)
def test_same_tokens_as_plain_sampling_node_by_node(
    batch: list[TokenTree], seed: int, temperature: float, penalty: float, min_tokens: int
) -> None:
    """Rows whose draws depend on the text, and rows that are drawn for together."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(map(len, batch)), 4, generator=generator)
    params: dict[str, Any] = {"presence_penalty": penalty, "min_tokens": min_tokens}
    start = row((1, 2), temperature=temperature, seed=seed, top_p=0.9, **params)
    start = replace(start, stop_ids=frozenset({3}))
    walks, first = list[Verification](), 0
    for tree in batch:
        walks.append(Verification(tree, first_row=first, row=start))
        first += len(tree)
    accept(logits, walks)
    for walk in walks:
        assert (walk.token_ids, walk.path) == _one_by_one(logits, walk)


def _one_by_one(logits: torch.Tensor, walk: Verification) -> tuple[list[int], list[int]]:
    """Plain decoding that looks its logits up in the tree: (tokens, path)."""
    node: int | None = 0
    tokens, path = list[int](), list[int]()
    while node is not None:
        path.append(node)
        output = [*walk.row.output_ids, *tokens]
        plain = SamplerRow(walk.row.params, walk.row.prompt_ids, output, walk.row.stop_ids)
        index = walk.first_row + node
        tokens += sample(logits[index : index + 1], [plain]).token_ids
        node = walk.tree.child(node, tokens[-1])
    return tokens, path


@pytest.mark.parametrize(
    ("params", "wanted", "num_rows", "path"),
    [
        ({}, {}, [8, 4], list(range(12))),  # all 11 tokens of the trunk, eight nodes at a time
        ({}, {3: 5}, [8], [0, 1, 2, 3]),  # off the tree behind the third
        ({}, {9: 3}, [8, 4, 1], [*range(10), 12]),  # a leaf is drawn for when the path gets there
        ({"temperature": 1.0, "top_k": 1}, {}, [8, 4], list(range(12))),
        ({"presence_penalty": 1e-9}, {3: 5}, [1, 1, 1, 1], [0, 1, 2, 3]),
        ({"logprobs": 0}, {3: 5}, [1, 1, 1, 1], [0, 1, 2, 3]),
        ({"min_tokens": 1}, {3: 5}, [1, 1, 1, 1], [0, 1, 2, 3]),
    ],
)
def test_the_trunk_is_drawn_for_together_where_the_text_does_not_matter(
    params: dict[str, Any],
    wanted: dict[int, int],
    num_rows: list[int],
    path: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """wanted: the nodes whose token is not the trunk's, which is 1 everywhere."""
    tree = comb(8, (1,) * 11, ((),) * 9 + ((3,),))
    rows = list[int]()

    def counting(logits: torch.Tensor, some: Sequence[SamplerRow]) -> Sampled:
        rows.append(len(some))
        return sample(logits, some)

    monkeypatch.setattr(accept_module, "sample", counting)
    values = {node: {wanted.get(node, 1): 5.0} for node in range(len(tree))}
    assert walked(tree, values, row(**params)).path == path
    assert rows == num_rows


@pytest.mark.parametrize(("top_p", "num_draws"), [(1.0, 200_000), (0.8, 100_000)])
def test_the_distribution_of_three_tokens_is_the_targets(top_p: float, num_draws: int) -> None:
    """Seeded draws of 3 tokens through trees of four shapes, chi-square over the 1000 triples
    against the exact product distribution, rare triples merged; with and without a nucleus.

    A correct sampler falls below p = 1e-6 with probability 1e-6: false-alarm odds of one in a
    million per case. Table and seeds are fixed, so the test either always passes or never.
    """
    logits = torch.randn(111, VOCAB, generator=torch.Generator().manual_seed(5)) * 1.3
    probs = _exact_triples(logits, top_p)
    counts, num_accepted = _drawn_triples(logits, top_p, num_draws)
    assert counts.sum() == num_draws
    assert num_accepted > num_draws / 4  # trees were walked, not only roots
    assert not counts[probs == 0].any()
    assert _chi_square_p_value(counts, probs * num_draws) > 1e-6


def _context(prefix: Sequence[int]) -> int:
    """Row of a prefix of up to two tokens in the table of forced logits."""
    return (0, 1, 1 + VOCAB)[len(prefix)] + sum(t * VOCAB**i for i, t in enumerate(prefix[::-1]))


def _shaped(shape: int, depth: int) -> TokenTree:
    """A tree of up to this depth: a lone root, a chain, a comb, or a bush of 3 children each."""
    if shape == 0 or depth == 0:
        return lone_root(0)
    if shape == 1:
        return comb(0, (1, 2)[:depth], ())
    if shape == 2:
        return comb(0, (4, 4)[:depth], ((0, 3, 5, 9), (1, 2, 8))[:depth])
    level, tokens, parents = [0], [0], list[int]()
    for _ in range(depth):
        children = [(parent, token_id) for parent in level for token_id in (2, 6, 7)]
        level = list(range(len(tokens), len(tokens) + len(children)))
        parents += [parent for parent, _ in children]
        tokens += [token_id for _, token_id in children]
    return TokenTree(tuple(tokens), tuple(parents))


def _forest(
    logits: torch.Tensor,
) -> tuple[torch.Tensor, dict[tuple[Tokens, int], tuple[int, TokenTree]]]:
    """Forced logits of all trees below all prefixes, and where each of them starts."""
    prefixes = [(), *((a,) for a in range(VOCAB))]
    prefixes += [(a, b) for a in range(VOCAB) for b in range(VOCAB)]
    rows, forest = list[int](), dict[tuple[Tokens, int], tuple[int, TokenTree]]()
    for prefix in prefixes:
        for shape in range(4):
            tree = _shaped(shape, 2 - len(prefix))
            forest[prefix, shape] = len(rows), tree
            for node in range(len(tree)):
                below = [tree.token_ids[n] for n in tree.path(node)[1:]]
                rows.append(_context((*prefix, *below)))
    return logits[rows], forest


def _drawn_triples(logits: torch.Tensor, top_p: float, num_draws: int) -> tuple[torch.Tensor, int]:
    """Decodes every seed in steps until it has three tokens: (counts of triples, accepted)."""
    table, forest = _forest(logits)
    params = [SamplingParams(max_tokens=3, top_p=top_p, seed=seed) for seed in range(num_draws)]
    outputs: list[Tokens] = [()] * num_draws
    unfinished, num_accepted = list(range(num_draws)), 0
    while unfinished:
        walks = list[Verification]()
        for i in unfinished:
            first_row, tree = forest[outputs[i], (i + len(outputs[i])) % 4]
            sampler_row = SamplerRow(params[i], (0,), outputs[i], frozenset())
            walks.append(Verification(tree, first_row=first_row, row=sampler_row))
        accept(table, walks)
        for i, walk in zip(unfinished, walks, strict=True):
            outputs[i] += tuple(walk.token_ids)
            num_accepted += len(walk.path) - 1
        unfinished = [i for i in unfinished if len(outputs[i]) < 3]
    cells = torch.tensor([a * 100 + b * 10 + c for a, b, c in outputs])
    return torch.bincount(cells, minlength=1000), num_accepted


def _exact_triples(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """[1000] product of three conditional distributions, each cut to its nucleus."""
    probs = logits.double().softmax(dim=-1)
    for conditional in probs:
        mass = 0.0
        for token_id in conditional.argsort(descending=True).tolist():
            kept = mass < top_p
            mass += float(conditional[token_id])
            if not kept:
                conditional[token_id] = 0.0
    probs /= probs.sum(dim=-1, keepdim=True)
    first, second, third = probs[0], probs[1:11], probs[11:].view(VOCAB, VOCAB, VOCAB)
    return (first[:, None, None] * second[:, :, None] * third).flatten()


def _chi_square_p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Cells of fewer than 5 expected draws are merged into one."""
    rare = expected < 5
    seen = torch.cat((counts[~rare], counts[rare].sum()[None])).double()
    wanted = torch.cat((expected[~rare], expected[rare].sum()[None]))
    if wanted[-1] < 5:
        seen, wanted = seen[:-1], wanted[:-1]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    degrees = torch.tensor((len(wanted) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2))
