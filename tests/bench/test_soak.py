"""The random soak of `bench/soak.py`, for a few seconds, and that it finds what it is for."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.soak import CONTEXT, POOL, Tally, random_request, soak, summary
from server.config import ModelSettings, load_settings
from server.engine.step.sampler import SamplerRow
from server.loading.model import LoadedModel, build_model

pytestmark = pytest.mark.real_model


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def model(tally: Tally) -> Iterator[LoadedModel]:
    settings = load_settings(ModelSettings, max_model_len=CONTEXT, kv_memory=POOL, max_num_seqs=6)
    yield build_model(settings, lambda line: None, tally.observe)


def test_random_requests_give_the_same_tokens_twice(model: LoadedModel, tally: Tally) -> None:
    asyncio.run(soak(model, tally, seconds=8, at_once=12, randomness=random.Random(5)))
    assert tally.differing == []
    assert tally.kv_usage == 0
    assert tally.answers + tally.given_up >= 12
    assert set(summary(tally)) >= {"answers", "preemptions", "differing"}


def test_a_sampler_that_knows_its_company_is_found(
    model: LoadedModel, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(planned: object, *rest: object) -> SamplerRow:
        row = honest(planned, *rest)  # pyright: ignore[reportArgumentType]
        seed = row.params.seed + len(model.runner.caches) + next(steps)
        return replace(row, params=replace(row.params, seed=seed))

    steps = iter(range(10**9))
    honest = model.runner.verify.sampler_row
    monkeypatch.setattr(model.runner.verify, "sampler_row", forgetful)
    asyncio.run(soak(model, tally, seconds=2, at_once=12, randomness=random.Random(5)))
    assert tally.differing


def test_requests_are_of_every_kind() -> None:
    choices = random.Random(0)
    requests = [random_request(str(i), 49152, choices) for i in range(300)]
    assert {request.speculation.policy for request in requests} >= {"off", "auto", "cape", "beam"}
    grammars = {request.params.grammar and request.params.grammar.kind for request in requests}
    assert grammars == {None, "choice", "regex", "json_schema", "json_object"}
    assert all(request.fits(CONTEXT) for request in requests)
    beginnings = [request.prompt_token_ids[:200] for request in requests]
    assert max(map(beginnings.count, set(beginnings))) > 10
