"""Cost curves, measured and corrected while serving."""

import math
from collections.abc import Iterable
from random import Random
from statistics import mean

import pytest

from server.engine.speculation.costs import (
    CostCurve,
    LiveCosts,
    LiveCurve,
    StepCosts,
    monotone,
)
from server.engine.speculation.prospect import Prospects

MEASURED = CostCurve((1, 2, 4, 8), (1.0, 1.1, 1.4, 2.0))
DRAFT = CostCurve((1, 4), (0.1, 0.2))
CURVE = CostCurve((1, 4, 8), (1.0, 4.0, 6.0))


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 1.0), (2, 2.0), (4, 4.0), (6, 5.0), (8, 6.0), (12, 8.0), (0, 0.0)],
)
def test_straight_lines_between_points_and_the_last_slope_beyond(rows: int, seconds: float) -> None:
    assert CURVE(rows) == pytest.approx(seconds)


def test_never_negative_below_the_first_point() -> None:
    assert CostCurve((4, 8), (1.0, 5.0))(1) == 0.0


def test_noise_never_makes_a_larger_step_cheaper() -> None:
    curve = monotone((1, 2, 4, 8), (3.0, 2.5, 4.0, 3.5))
    assert curve == CostCurve((1, 2, 4, 8), (3.0, 3.0, 4.0, 4.0))
    costs = [curve(rows) for rows in range(1, 40)]
    assert costs == sorted(costs)


def test_a_curve_starts_as_measured() -> None:
    curve = LiveCurve(MEASURED)
    assert [curve(rows) for rows in (1, 3, 8)] == [1.0, pytest.approx(1.25), 2.0]


def test_a_slower_machine_moves_all_points_alike() -> None:
    curve = LiveCurve(MEASURED)
    for _ in range(400):
        for rows in (1, 2, 4, 8):
            curve.observe(rows, 3.0 * MEASURED(rows))
    assert [curve(rows) / MEASURED(rows) for rows in (1, 2, 4, 8)] == pytest.approx([3.0] * 4)


def test_what_is_dearer_than_measured_becomes_so_alone() -> None:
    """Steps of two rows take half as long again; those of one are as measured."""
    curve = LiveCurve(MEASURED)
    for _ in range(200):
        curve.observe(1, 1.0)
        curve.observe(2, 1.65)
    # What each says of the other pulls back a little.
    assert curve(2) / curve(1) == pytest.approx(1.65, rel=0.01)


def test_rows_that_are_never_seen_follow_half_way() -> None:
    curve = LiveCurve(MEASURED)
    for _ in range(300):
        curve.observe(2, 2.2)
    assert curve(2) == pytest.approx(2.2)
    assert 1.1 < curve(1) < 1.9


def test_one_step_that_was_held_up_changes_little() -> None:
    curve = LiveCurve(MEASURED)
    curve.observe(1, 1000.0)
    assert curve(1) < 1.05


def noisy_steps(stretches: Iterable[tuple[int, int]]) -> list[float]:
    """How the cost of four rows compares with that of one, beside what is true, after each step.
    One step in ten takes 1.7 times as long, one in a hundred three times, all vary by 6 %.

    Args:
        stretches: (rows, number of steps) each.
    """
    curve, random = LiveCurve(MEASURED), Random(0)
    ratios = list[float]()
    for rows in (rows for rows, count in stretches for _ in range(count)):
        held_up = random.choices((1.0, 1.7, 3.0), (89, 10, 1))[0]
        curve.observe(rows, MEASURED(rows) * held_up * math.exp(random.gauss(0.0, 0.06)))
        ratios.append(curve(4) / curve(1) / (MEASURED(4) / MEASURED(1)))
    return ratios


def test_steps_that_are_held_up_hardly_change_how_costs_compare() -> None:
    ratios = noisy_steps([(1, 2), (4, 1)] * 1000)
    assert all(0.93 < ratio < 1.07 for ratio in ratios)


def test_sizes_that_are_seen_for_long_do_not_sink_beside_the_others() -> None:
    """Plain decoding and speculation by turns, one for longer than the other."""
    ratios = noisy_steps([(1, 150), (4, 50)] * 40)
    assert 0.97 < mean(ratios[len(ratios) // 2 :]) < 1.03


def test_a_larger_step_is_never_cheaper() -> None:
    curve = LiveCurve(MEASURED)
    for _ in range(100):
        curve.observe(1, 5.0)
    assert curve(1) <= curve(2) <= curve(4) <= curve(8)


def test_what_drafting_takes_beside_its_forwards() -> None:
    costs = LiveCosts(StepCosts(MEASURED, DRAFT))
    for _ in range(3):
        costs.observe_draft(num_chains=1, num_forwards=3, seconds=0.8)
    assert costs.draft_start == pytest.approx(0.5)
    costs.observe_draft(num_chains=1, num_forwards=3, seconds=1000.0)
    assert costs.draft_start < 0.53


def test_drafting_stops_when_live_steps_show_that_it_does_not_pay() -> None:
    """Chains survive with 0.7 a token: worth it at 0.1 steps a row, not at half a step."""
    costs = LiveCosts(StepCosts(MEASURED, CostCurve((1, 4), (0.01, 0.02))))
    prospects = Prospects(costs, max_depth=1)
    prospects.observe([0.7])
    assert prospects(1, 1).pays
    for _ in range(100):
        costs.observe_verify(1, 1.0)
        costs.observe_verify(2, 1.9)
    assert not prospects(1, 1).pays
