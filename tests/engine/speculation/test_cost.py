"""Cost curves: between, beyond and below the measured points."""

import pytest

from server.engine.speculation.cost import CostCurve, monotone

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
