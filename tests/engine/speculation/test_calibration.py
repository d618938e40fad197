"""Calibration: from the draft's word to the observed rate."""

import pytest

from server.engine.speculation.calibration import Calibration, Kind


def observed(calibration: Calibration, confidence: float, outcomes: list[bool], kind: Kind) -> None:
    for accepted in outcomes:
        calibration.observe(confidence, kind, accepted)


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["leaf", "lookup"])
def test_starts_at_the_confidence(confidence: float, kind: Kind) -> None:
    assert Calibration().chance(confidence, kind) == pytest.approx(confidence)
    assert Calibration(trunk_power=1.0).chance(confidence, "trunk") == pytest.approx(confidence)


def test_a_drafts_first_choice_starts_at_a_power_of_its_confidence() -> None:
    """Exactly where bins meet, and never more than 0.005 below it but in the first of them, where
    the power rises steeply."""
    calibration = Calibration()
    for edge in range(11):
        assert calibration.chance(edge / 10, "trunk") == pytest.approx((edge / 10) ** 0.7)
    for confidence in (i / 200 for i in range(20, 201)):
        exact = confidence**0.7
        assert exact - 0.005 < calibration.chance(confidence, "trunk") <= exact + 1e-9


@pytest.mark.parametrize(("kind", "power"), [("trunk", 0.7), ("leaf", 1.0), ("lookup", 1.0)])
def test_one_observation_moves_it_by_a_ninth(kind: Kind, power: float) -> None:
    """What is believed beforehand counts for 8 observations: (8 x 0.5 + 1) / 9."""
    calibration = Calibration()
    calibration.observe(0.5, kind, True)
    assert calibration.chance(0.5, kind) == pytest.approx((8 * 0.5**power + 1) / 9)


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
    for confidence in (0.65, 0.45):
        first = Calibration().chance(confidence, "trunk")
        assert calibration.chance(confidence, "trunk") == first > confidence


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
