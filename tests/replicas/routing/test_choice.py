"""Which replica is chosen, as a table: known leading blocks, load and all blocks of each."""

import pytest

from server.replicas.routing.choice import Candidate, choose

CASES = {
    "nothing is known: the least loaded": ([(0, 2), (0, 1), (0, 3)], 1),
    "as much load: the first": ([(0, 1), (0, 1)], 0),
    "as much load: the emptiest cache": ([(0, 1, 9), (0, 1, 4)], 1),
    "the longest prefix": ([(3, 0), (8, 0), (5, 0)], 1),
    "the longest prefix, though it has more load": ([(0, 0), (8, 4)], 1),
    "a short prefix is not worth as much": ([(0, 0), (4, 3)], 0),
    "a short prefix is worth less": ([(0, 0), (4, 2)], 1),
    "as long a prefix: the least loaded": ([(8, 2), (8, 1)], 1),
    "too much load above the least": ([(8, 5), (0, 0)], 1),
    "too much load: the next longest prefix": ([(8, 5), (0, 0), (6, 2)], 2),
    "a share that all conversations have says nothing": ([(2, 1), (0, 0)], 1),
    "a quarter of the prompt counts": ([(3, 1), (0, 0)], 0),
    "one replica": ([(0, 99)], 0),
}
NUM_BLOCKS, IMBALANCE = 12, 4


@pytest.mark.parametrize("name", CASES)
def test_choice(name: str) -> None:
    rows, expected = CASES[name]
    candidates = [Candidate(*row) for row in rows]
    assert choose(candidates, NUM_BLOCKS, IMBALANCE) == expected


def test_a_prompt_without_a_full_block_goes_to_the_least_loaded() -> None:
    assert choose([Candidate(0, 1), Candidate(0, 0)], 0, IMBALANCE) == 1
