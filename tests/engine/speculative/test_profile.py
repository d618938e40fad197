"""The measured cost curves, on the tiny model with each drafter. No figure is checked: machines
differ; but points, signs and what is left behind."""

from dataclasses import replace

import pytest

from server.engine.speculative.profile import DRAFT_ROWS, VERIFY_ROWS, measure_costs
from tests.engine.speculative.test_exactness import DRAFTERS, oracle
from tests.engine.test_equality import alone, requests
from tests.engine.tiny import CONFIG, CPU, TinyEngine, tiny_caches, tiny_model, tokens

MEASURED = [name for name, make in DRAFTERS.items() if make is not oracle]


@pytest.mark.parametrize("name", MEASURED)
def test_curves_have_all_points_and_rise(name: str) -> None:
    caches = tiny_caches(CONFIG)
    drafter = DRAFTERS[name](CONFIG, caches)
    costs = measure_costs(tiny_model(), drafter, caches, CONFIG.block_size, CPU)
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
    assert measure_costs(tiny_model(), drafter, caches, config.block_size, CPU).verify(1) > 0


@pytest.mark.parametrize("name", MEASURED)
def test_serving_after_a_measurement_gives_the_same_tokens(name: str) -> None:
    engine = TinyEngine(CONFIG, DRAFTERS[name])
    speculator = engine.runner.speculator
    assert speculator is not None
    measure_costs(tiny_model(), speculator.drafter, engine.runner.caches, CONFIG.block_size, CPU)
    speculating = replace(requests()[0].speculation, policy="cape")
    request = replace(requests()[0], speculation=speculating)
    got = engine.run([request])[request.request_id]
    assert tokens(got) == tokens(alone()[request.request_id])
