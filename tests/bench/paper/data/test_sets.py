"""Which lines of a file are measured."""

from bench.paper.data.sets import spread


def test_lines_are_spread_evenly() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(80, 8) == list(range(0, 80, 10))


def test_all_lines() -> None:
    assert spread(4, None) == spread(4, 4) == spread(4, 9) == [0, 1, 2, 3]


def test_twice_as_many_include_the_first_ones() -> None:
    """So that more prompts can be measured later."""
    assert set(spread(200, 20)) <= set(spread(200, 40))
