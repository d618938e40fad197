"""The paper's figures of scripted rounds, against values worked out by hand."""

import pytest

from bench.paper.measure.rounds import Answer, Step, expected_speedup, position_counts


def rounds(*accepted: int, depth: int) -> list[Step]:
    """Chain rounds that end in a token of the target's own."""
    return [Step(num_tokens=count + 1, num_accepted=count, depth=depth) for count in accepted]


def test_the_docstrings_example() -> None:
    counts = position_counts(rounds(3, 1, 0, depth=3))
    assert counts.accepted == (2, 1, 1)
    assert counts.judged == (3, 2, 1)


def test_a_fully_accepted_round_has_no_rejection() -> None:
    counts = position_counts(rounds(2, 2, depth=2))
    assert counts.accepted == counts.judged == (2, 2)


def test_a_round_cut_short_judges_only_what_was_emitted() -> None:
    """The answer ended at the second accepted token of five."""
    counts = position_counts([Step(num_tokens=2, num_accepted=2, depth=5)])
    assert counts.accepted == counts.judged == (1, 1, 0, 0, 0)


def test_rounds_of_different_depths_and_steps_without_a_proposal() -> None:
    steps = [*rounds(1, depth=1), *rounds(1, depth=3), Step(num_tokens=1, num_accepted=0)]
    counts = position_counts(steps)
    assert counts.accepted == (2, 0, 0)
    assert counts.judged == (2, 1, 0)


def test_plain_decoding_has_no_positions() -> None:
    assert position_counts([Step(1, 0), Step(1, 0)]).judged == ()


def test_expected_speedup() -> None:
    # (1 - 0.5^3) / ((1 - 0.5)(2 x 0.1 + 1)) = 0.875 / 0.6
    assert expected_speedup(0.5, 0.1, 2) == pytest.approx(0.875 / 0.6)
    # The paper's own row, GliDe for Vicuna-7B on GSM8K: 64.8 %, 6.7 %, 1.97.
    assert expected_speedup(0.648, 0.067, 5) == pytest.approx(1.97, abs=0.01)
    assert expected_speedup(1.0, 0.0, 5) == pytest.approx(6)
    assert expected_speedup(0.0, 0.1, 5) == pytest.approx(1 / 1.5)


def test_an_answers_sums() -> None:
    steps = (Step(2, 1, depth=2, draft_seconds=0.25), Step(1, 0, depth=2, draft_seconds=0.5))
    answer = Answer((5, 6, 7, 8), 1.0, steps)
    assert answer.num_decoded == 3
    assert answer.seconds("draft") == 0.75
