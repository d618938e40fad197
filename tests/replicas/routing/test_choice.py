"""Which replica is chosen, as a table: known leading blocks, load, all blocks, recent requests."""

from typing import Any

import pytest

from server.replicas.routing.choice import Candidate, choose

NUM_BLOCKS, IMBALANCE = 40, 4

CASES: dict[str, tuple[list[tuple[Any, ...]], int]] = {
    "nothing is known: the least loaded": ([(0, 2), (0, 1), (0, 3)], 1),
    "as much load: the first": ([(0, 1), (0, 1)], 0),
    "as much load: the emptiest cache": ([(0, 1, 9), (0, 1, 4)], 1),
    "as much load: the one that got less lately": ([(0, 1, 4, 2.0), (0, 1, 9, 1.0)], 1),
    "the longest prefix": ([(3, 0), (8, 0), (5, 0)], 1),
    "a prefix that is worth an open request": ([(5, 1), (0, 0)], 0),
    "a prefix that is not": ([(3, 1), (0, 0)], 1),
    "a long one is worth several": ([(17, 4), (0, 0)], 0),
    "but no more than the imbalance": ([(40, 5), (0, 0)], 1),
    "too much load: the next longest prefix": ([(40, 5), (0, 0), (6, 1)], 2),
    "what all know moves nobody": ([(30, 1), (30, 0)], 1),
    "a beginning that others have too, where many went lately": ([(10, 0, 0, 6.0), (0, 0)], 1),
    "a conversation of one's own, there": ([(35, 0, 0, 15.0), (0, 0)], 0),
    "one replica": ([(0, 99)], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(name: str) -> None:
    rows, expected = CASES[name]
    candidates = [Candidate(*row) for row in rows]
    assert choose(candidates, NUM_BLOCKS, IMBALANCE) == expected


def test_a_prompt_without_a_full_block_goes_to_the_least_loaded() -> None:
    assert choose([Candidate(0, 1), Candidate(0, 0)], 0, IMBALANCE) == 1
