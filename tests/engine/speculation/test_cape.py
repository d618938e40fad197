"""CaPE's widths at the paper's thresholds, and what a limit on nodes takes away."""

import pytest

from server.engine.speculation.cape import CapeConfig, expand
from server.engine.speculation.tree import TokenTree

ROOT_TOKEN = 100


def expanded(
    confidences: tuple[float, ...],
    max_nodes: int = 32,
    config: CapeConfig | None = None,
    num_candidates: int = 8,
) -> TokenTree:
    """Candidates at depth d are 10 d, 10 d + 1, …"""
    candidates = [range(10 * d, 10 * d + num_candidates) for d in range(1, len(confidences) + 1)]
    probabilities = [[c, *[0.0] * (num_candidates - 1)] for c in confidences]
    return expand(ROOT_TOKEN, candidates, probabilities, config or CapeConfig(), max_nodes)


def leaves_per_depth(tree: TokenTree) -> list[int]:
    nodes_per_depth = [tree.depths.count(depth) for depth in range(1, max(tree.depths) + 1)]
    return [count - 1 for count in nodes_per_depth]


@pytest.mark.parametrize(
    ("confidence", "leaves"),
    [
        (0.0, 7), (0.3, 7), (0.31, 5), (0.6, 5), (0.61, 3), (0.8, 3), (0.81, 1), (1.0, 1),
        (1.0000001, 1),  # a rounded softmax
    ],
)  # fmt: skip
def test_the_papers_widths(confidence: float, leaves: int) -> None:
    assert CapeConfig().num_leaves(confidence) == leaves
    assert leaves_per_depth(expanded((confidence,))) == [leaves]


def test_each_depth_has_its_own_width() -> None:
    tree = expanded((0.9, 0.7, 0.5, 0.1))
    assert tree.token_ids[:5] == (ROOT_TOKEN, 10, 20, 30, 40)
    assert tree.num_trunk == 4
    assert leaves_per_depth(tree) == [1, 3, 5, 7]
    assert tree.token_ids[5:9] == (11, 21, 22, 23)
    assert tree.parents[4:8] == (0, 1, 1, 1)


def test_max_nodes_takes_leaves_from_the_bottom_up_and_then_the_trunk() -> None:
    confidences = (0.7, 0.7, 0.7)
    widths = {limit: leaves_per_depth(expanded(confidences, limit)) for limit in range(2, 15)}
    assert widths[13] == widths[14] == [3, 3, 3]
    assert widths[12] == [3, 3, 2]
    assert widths[10] == [3, 3, 0]
    assert widths[8] == [3, 1, 0]
    assert widths[5] == [1, 0, 0]
    assert widths[4] == [0, 0, 0]
    assert widths[3] == [0, 0]
    assert widths[2] == [0]


@pytest.mark.parametrize("max_nodes", range(1, 40))
def test_never_more_nodes_than_allowed(max_nodes: int) -> None:
    tree = expanded((0.1, 0.1, 0.1, 0.1), max_nodes)
    assert len(tree) == min(max_nodes, 1 + 4 + 28)
    assert tree.num_trunk == min(max_nodes - 1, 4)


def test_no_more_leaves_than_there_are_candidates() -> None:
    assert leaves_per_depth(expanded((0.1, 0.9), num_candidates=3)) == [2, 1]
    assert leaves_per_depth(expanded((0.1,), num_candidates=1)) == [0]


def test_nothing_drafted_is_the_root_alone() -> None:
    assert expanded(()).token_ids == (ROOT_TOKEN,)


def test_other_tables() -> None:
    config = CapeConfig(thresholds=(0.5, 1.0), leaves=(2, 0))
    assert leaves_per_depth(expanded((0.5, 0.51), config=config)) == [2, 0]
    assert expanded((0.9, 0.9), config=config).is_chain
