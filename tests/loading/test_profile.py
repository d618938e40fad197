"""The measured cost curves, on the tiny model with each drafter. No figure is checked: machines
differ; but points, signs and what is left behind."""

from dataclasses import replace

import pytest

from server.engine.drafters.ngram import NgramDrafter
from server.engine.speculation.costs import CostCurve, StepCosts
from server.engine.speculation.recent import RecentOutputs
from server.loading import profile
from server.loading.profile import (
    DRAFT_ROWS,
    VERIFY_ROWS,
    Profiled,
    measure_costs,
    still_hold,
)
from tests.engine.answers import alone, requests
from tests.engine.drafting import DRAFTERS, oracle
from tests.engine.tiny import CONFIG, CPU, TinyEngine, tiny_caches, tiny_model, tokens

MEASURED = [name for name, make in DRAFTERS.items() if make is not oracle]


@pytest.mark.parametrize("name", MEASURED)
def test_curves_have_all_points_and_rise(name: str) -> None:
    caches = tiny_caches(CONFIG)
    drafter = DRAFTERS[name](CONFIG, caches)
    costs = measure_costs(Profiled(tiny_model(), caches, CONFIG.block_size, CPU), drafter)
    for curve, rows in ((costs.verify, VERIFY_ROWS), (costs.draft, DRAFT_ROWS)):
        assert curve.rows == rows
        assert len(curve.seconds) == len(rows)
        assert curve.seconds[0] > 0
        assert list(curve.seconds) == sorted(curve.seconds)


@pytest.mark.parametrize("num_blocks", [48, 10])
@pytest.mark.parametrize("name", MEASURED)
def test_a_small_pool_is_not_overrun(name: str, num_blocks: int) -> None:
    """128 tokens of context and 64 rows take 48 blocks; a pool for short contexts may have less."""
    config = replace(CONFIG, num_blocks=num_blocks)
    caches = tiny_caches(config)
    drafter = DRAFTERS[name](config, caches)
    assert (
        measure_costs(Profiled(tiny_model(), caches, config.block_size, CPU), drafter).verify(1) > 0
    )


@pytest.mark.parametrize("name", MEASURED)
def test_serving_after_a_measurement_gives_the_same_tokens(name: str) -> None:
    engine = TinyEngine(CONFIG, DRAFTERS[name])
    speculator = engine.runner.speculator
    assert speculator is not None
    profiled = Profiled(tiny_model(), engine.runner.caches, CONFIG.block_size, CPU)
    measure_costs(profiled, speculator.drafter)
    speculating = replace(requests()[0].speculation, policy="cape")
    request = replace(requests()[0], speculation=speculating)
    got = engine.run([request])[request.request_id]
    assert tokens(got) == tokens(alone()[request.request_id])


def test_recent_answers_are_those_of_requests() -> None:
    caches, recent = tiny_caches(CONFIG), RecentOutputs(10_000)
    target = Profiled(tiny_model(), caches, CONFIG.block_size, CPU)
    measure_costs(target, NgramDrafter(recent=recent))
    assert (recent.num_tokens, recent.num_places) == (0, 0)


@pytest.mark.parametrize(
    ("then", "holds"), [(1.0, False), (2.9, False), (3.2, True), (5.0, True), (5.4, False)]
)
def test_costs_hold_while_steps_have_their_ratio(
    monkeypatch: pytest.MonkeyPatch, then: float, holds: bool
) -> None:
    """Today eight rows take four times as long as one, whatever the unit; 30 % off is too much."""
    monkeypatch.setattr(profile, "_seconds", lambda run, rows: {1: 0.25, 8: 1.0}[rows])
    costs = StepCosts(CostCurve((1, 8), (0.01, 0.01 * then)), CostCurve((1, 2), (0.0, 0.0)))
    target = Profiled(tiny_model(), tiny_caches(CONFIG), CONFIG.block_size, CPU)
    assert still_hold(costs, target) == holds
