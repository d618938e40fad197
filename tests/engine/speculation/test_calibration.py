"""Calibration: from the draft's word to the observed rate."""

import pytest

from server.engine.speculation.calibration import Calibration, Kind


def observed(calibration: Calibration, confidence: float, outcomes: list[bool], kind: Kind) -> None:
    for accepted in outcomes:
        calibration.observe(confidence, kind, accepted)


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["trunk", "leaf", "lookup"])
def test_starts_at_the_confidence(confidence: float, kind: Kind) -> None:
    assert Calibration().chance(confidence, kind) == pytest.approx(confidence)


def test_one_observation_moves_it_by_a_ninth() -> None:
    """The confidence counts for 8 observations: (8 x 0.5 + 1) / 9."""
    calibration = Calibration()
    calibration.observe(0.5, "trunk", True)
    assert calibration.chance(0.5, "trunk") == pytest.approx(5 / 9)


def test_moves_to_the_observed_rate() -> None:
    calibration = Calibration()
    observed(calibration, 0.55, [True, True, True, False] * 300, kind="trunk")
    assert calibration.chance(0.55, "trunk") == pytest.approx(0.75, abs=0.01)
    assert calibration.chance(0.51, "trunk") == pytest.approx(0.75, abs=0.01)  # the same bin


def test_bins_and_kinds_are_apart() -> None:
    calibration = Calibration()
    observed(calibration, 0.55, [False] * 500, kind="trunk")
    assert calibration.chance(0.55, "trunk") < 0.02
    assert calibration.chance(0.55, "leaf") == pytest.approx(0.55)
    assert calibration.chance(0.55, "lookup") == pytest.approx(0.55)
    assert calibration.chance(0.65, "trunk") == pytest.approx(0.65)
    assert calibration.chance(0.45, "trunk") == pytest.approx(0.45)


def test_forgets_slowly() -> None:
    """A thousand old failures weigh 1 / e after a thousand successes: 0.63 of what is remembered
    is new."""
    calibration = Calibration()
    observed(calibration, 0.5, [False] * 20_000, kind="leaf")
    observed(calibration, 0.5, [True] * 1000, kind="leaf")
    assert calibration.chance(0.5, "leaf") == pytest.approx(0.632, abs=0.01)
    observed(calibration, 0.5, [True] * 6000, kind="leaf")
    assert calibration.chance(0.5, "leaf") > 0.98


def test_a_chance_stays_between_0_and_1() -> None:
    """Softmax in float32 may round to a little more than 1."""
    calibration = Calibration()
    observed(calibration, 1.0000002, [True] * 100, kind="trunk")
    assert calibration.chance(1.0000002, "trunk") == 1.0
    observed(calibration, 0.0, [False] * 100, kind="trunk")
    assert calibration.chance(0.0, "trunk") == 0.0


def test_lines_are_the_chances() -> None:
    calibration = Calibration()
    for i in range(300):
        calibration.observe((i % 97) / 96, "trunk", i % 3 > 0)
        calibration.observe((i % 89) / 88, "leaf", i % 7 > 0)
    lines = calibration.lines("trunk")
    for i in range(101):
        assert lines(i / 100) == pytest.approx(calibration.chance(i / 100, "trunk"))
