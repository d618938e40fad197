"""Calibration: from the draft's word to the observed rate."""

import pytest

from server.engine.speculative.calibration import Calibration


def observed(calibration: Calibration, confidence: float, outcomes: list[bool], leaf: bool) -> None:
    for accepted in outcomes:
        calibration.observe(confidence, leaf, accepted)


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("leaf", [False, True])
def test_starts_at_the_confidence(confidence: float, leaf: bool) -> None:
    assert Calibration().chance(confidence, leaf) == pytest.approx(confidence)


def test_one_observation_moves_it_by_a_ninth() -> None:
    """The confidence counts for 8 observations: (8 x 0.5 + 1) / 9."""
    calibration = Calibration()
    calibration.observe(0.5, False, True)
    assert calibration.chance(0.5, False) == pytest.approx(5 / 9)


def test_moves_to_the_observed_rate() -> None:
    calibration = Calibration()
    observed(calibration, 0.55, [True, True, True, False] * 300, leaf=False)
    assert calibration.chance(0.55, False) == pytest.approx(0.75, abs=0.01)
    assert calibration.chance(0.51, False) == pytest.approx(0.75, abs=0.01)  # the same bin


def test_bins_and_ranks_are_apart() -> None:
    calibration = Calibration()
    observed(calibration, 0.55, [False] * 500, leaf=False)
    assert calibration.chance(0.55, False) < 0.02
    assert calibration.chance(0.55, True) == pytest.approx(0.55)
    assert calibration.chance(0.65, False) == pytest.approx(0.65)
    assert calibration.chance(0.45, False) == pytest.approx(0.45)


def test_forgets_slowly() -> None:
    """A thousand old failures weigh 1 / e after a thousand successes: 0.63 of what is remembered
    is new."""
    calibration = Calibration()
    observed(calibration, 0.5, [False] * 20_000, leaf=True)
    observed(calibration, 0.5, [True] * 1000, leaf=True)
    assert calibration.chance(0.5, True) == pytest.approx(0.632, abs=0.01)
    observed(calibration, 0.5, [True] * 6000, leaf=True)
    assert calibration.chance(0.5, True) > 0.98


def test_a_chance_stays_between_0_and_1() -> None:
    """Softmax in float32 may round to a little more than 1."""
    calibration = Calibration()
    observed(calibration, 1.0000002, [True] * 100, leaf=False)
    assert calibration.chance(1.0000002, False) == 1.0
    observed(calibration, 0.0, [False] * 100, leaf=False)
    assert calibration.chance(0.0, False) == 0.0


def test_lines_are_the_chances() -> None:
    calibration = Calibration()
    for i in range(300):
        calibration.observe((i % 97) / 96, False, i % 3 > 0)
        calibration.observe((i % 89) / 88, True, i % 7 > 0)
    lines = calibration.trunk_lines()
    for i in range(101):
        assert lines(i / 100) == pytest.approx(calibration.chance(i / 100, False))
