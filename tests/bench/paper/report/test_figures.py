"""The paper's figures of hand-made answers, worked out by hand."""

from dataclasses import replace

import pytest

from bench.paper.measure.rounds import expected_speedup
from bench.paper.report.figures import PromptResult, set_figures, usable
from tests.bench.paper.made import chain, plain, result


def two_prompts() -> list[PromptResult]:
    """Nine tokens after the first each; a plain step takes 1 s, then 2 s."""
    return [
        # Rounds of 4, 4 and 1 tokens in 3 s; 0.75 s of them for 15 drafted tokens.
        result("a", plain=plain(10, 9.0), chain=chain([3, 3, 0], 3.0, 0.75)),
        # One round of 6 and one of 3 in 9 s; 1.5 s for 10 drafted tokens.
        result("b", plain=plain(10, 18.0), chain=chain([5, 2], 9.0, 1.5)),
    ]


def test_one_data_set() -> None:
    figures = set_figures([two_prompts()])
    assert figures.num_prompts == 2
    found = figures.methods["chain"]
    assert found.tokens_per_step is not None
    assert found.tokens_per_step.value == pytest.approx(18 / 5)
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx(27 / 12)
    # Resamples are aa, ab, ba and bb: 9/3, 27/12, 27/12 and 18/9.
    assert found.speedup == pytest.approx((27 / 12, 2.0, 3.0))
    assert found.p_value == pytest.approx(2 / 4)
    assert found.tokens_per_second == pytest.approx(18 / 12)
    assert found.draft_ms == pytest.approx(1000 * 2.25 / 5)
    assert (found.verify_ms, found.other_ms) == pytest.approx((250, 125))
    assert found.nodes_per_step == pytest.approx(6)
    assert found.num_differing == 0


def test_the_chains_figures() -> None:
    found = set_figures([two_prompts()]).methods["chain"].chain
    assert found is not None
    # position   1    2    3    4    5
    # accepted   4    4    3    1    1    of rounds that accepted 3, 3, 0, 5 and 2
    # judged     5    4    4    3    1
    values = [estimate and estimate.value for estimate in found.acceptance_by_position]
    assert values == pytest.approx([4 / 5, 4 / 4, 3 / 4, 1 / 3, 1 / 1])
    assert found.acceptance is not None
    assert found.acceptance.value == pytest.approx(13 / 17)
    # 2.25 s for 25 drafted tokens; 27 s for 18 plain steps.
    assert found.relative_cost is not None
    assert found.relative_cost.value == pytest.approx((2.25 / 25) / (27 / 18))
    # Either prompt twice: 0.75 s for 15 depths in 1 s steps, 1.5 s for 10 in 2 s steps.
    assert found.relative_cost[1:] == pytest.approx((0.05, 0.075))
    assert found.expected_speedup is not None
    assert found.expected_speedup.value == pytest.approx(expected_speedup(13 / 17, 0.06, 5))
    ends = expected_speedup(6 / 9, 0.05, 5), expected_speedup(7 / 8, 0.075, 5)
    assert found.expected_speedup[1:] == pytest.approx(ends)


def test_plain_decoding_against_itself() -> None:
    found = set_figures([two_prompts()]).methods["plain"]
    assert found.speedup == pytest.approx((1, 1, 1))
    assert found.tokens_per_step == pytest.approx((1, 1, 1))
    assert found.p_value is None
    assert found.chain is None


def test_agreement_per_delay() -> None:
    figures = set_figures([two_prompts()])
    values = [estimate and estimate.value for estimate in figures.agreement]
    assert values == [pytest.approx(3 / 4), pytest.approx(2 / 3), pytest.approx(1 / 2), 0.0, None]
    assert figures.agreement_overall is not None
    assert figures.agreement_overall.value == pytest.approx(6 / 10)
    assert figures.overlap[0] is not None
    assert figures.overlap[0].value == pytest.approx(0.5)
    assert figures.overlap_overall is not None
    assert figures.overlap_overall.value == pytest.approx(4.25 / 10)


def test_the_mean_of_sets_counts_each_set_once() -> None:
    first, second = two_prompts()
    figures = set_figures([[first, first, first], [second, second]])
    found = figures.methods["chain"]
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx((9 / 3 + 18 / 9) / 2)
    assert found.tokens_per_second == pytest.approx((9 / 3 + 9 / 9) / 2)
    assert found.p_value == pytest.approx(2 / 32)
    assert found.chain is not None
    expected = [
        expected_speedup(6 / 9, (0.75 / 15) / 1.0, 5),
        expected_speedup(7 / 8, (1.5 / 10) / 2.0, 5),
    ]
    assert found.chain.expected_speedup is not None
    assert found.chain.expected_speedup.value == pytest.approx(sum(expected) / 2)


def test_the_test_of_the_mean_weighs_the_sets_alike() -> None:
    """Five prompts 4 times as fast in one set, one prompt 64 times as slow in the other."""
    fast = result(plain=plain(10, 8.0), chain=chain([3, 4], 2.0))
    slow = result(plain=plain(10, 1.0), chain=chain([3, 4], 64.0))
    found = set_figures([[fast] * 5, [slow]]).methods["chain"]
    # In log 4: observed 1 - 3 = -2; k / 5 ± 3 with k from -5 to 5 is never closer to 0.
    assert found.p_value == pytest.approx(1.0)
    together = set_figures([[*[fast] * 5, slow]]).methods["chain"]
    # Observed 5 - 3 = 2; k ± 3 is 0 for k = 3 and k = -3, with 5 patterns each.
    assert together.p_value == pytest.approx(54 / 64)


def test_an_answer_that_differs_is_counted_and_timed_per_token() -> None:
    other = replace(chain([3], 2.0), token_ids=(9, 9, 9, 9, 9))
    found = set_figures([[result(plain=plain(10, 9.0), chain=other)]]).methods["chain"]
    assert found.num_differing == 1
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx((9.0 * 4 / 9) / 2.0)


def test_cape_against_the_chain() -> None:
    prompts = [
        result(plain=plain(10, 9.0), chain=chain([3, 3, 0], 4.0), cape=chain([3, 4], seconds))
        for seconds in (2.0, 3.0)
    ]
    found = set_figures([prompts]).cape_against_chain
    assert found is not None
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx(8 / 5)
    assert found.p_value == pytest.approx(0.5)
    assert set_figures([two_prompts()]).cape_against_chain is None


def test_answers_of_one_token_are_left_out() -> None:
    short = result(plain=plain(1, 0.0), chain=chain([3], 1.0))
    assert usable([short, *two_prompts()]) == two_prompts()
    assert set_figures([[]]).num_prompts == 0
