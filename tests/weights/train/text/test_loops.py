"""Where an answer is called a loop."""

import pytest

from weights.train.text.loops import MOST_REPEATED, LoopDetector


def tokens_kept(token_ids: list[int], at_once: int = 1) -> int | None:
    """Tokens up to where the answer is a loop; None where it is none."""
    loop, kept = LoopDetector(), 0
    for start in range(0, len(token_ids), at_once):
        kept += len(loop.take(token_ids[start : start + at_once]))
        if loop.found:
            return kept
    assert kept == len(token_ids)
    return None


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_a_period_that_comes_again_and_again(at_once: int) -> None:
    """A period of p tokens: the first one whose five tokens before stood before is p + 6."""
    for period in (1, 2, 7, 40):
        repeated = list(range(period)) * 200
        assert tokens_kept(repeated, at_once) == period + 5 + max(MOST_REPEATED, period)


def test_text_that_does_not_repeat_is_none() -> None:
    assert tokens_kept([n * n % 10_007 for n in range(2_000)]) is None


def test_a_quotation_is_no_loop() -> None:
    """However long it is: what stands between, or follows, differs."""
    for length in (20, 50, 400):
        quoted = list(range(length))
        assert tokens_kept([*quoted, *range(900, 910), *quoted, 911, *quoted, 912]) is None


def test_once_through_its_period_it_is_one() -> None:
    """Few tokens may come again and again: no loop before there are enough of them."""
    assert tokens_kept([1, 2, 3] * 12) is None
    assert tokens_kept([1, 2, 3] * 14) == 3 + 5 + MOST_REPEATED


def test_what_followed_last_counts() -> None:
    """The same five tokens are followed by 100 and 200 in turn, so every sixth token is new."""
    assert tokens_kept([*range(5), 100, *range(5), 200] * 4) is None
