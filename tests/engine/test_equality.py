"""A request's tokens depend on the request alone: not on its company, the cache, chunking, or being
preempted. Tiny random model, float32, exact tokens; logprobs to 1e-5."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest

from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import Request, RequestId
from tests.engine.tiny import CONFIG, EOS, TinyEngine, make_request, tokens

ENGINES: dict[str, SchedulerConfig] = {
    "batched": CONFIG,
    "no prefix cache": replace(CONFIG, prefix_caching=False),
    "chunks of 7": replace(CONFIG, max_num_batched_tokens=7),
    "few blocks": replace(CONFIG, num_blocks=64),
    "few blocks, chunks of 7": replace(CONFIG, num_blocks=64, max_num_batched_tokens=7),
    "blocks of 1": replace(CONFIG, num_blocks=1024, block_size=1),
}

SAMPLED: dict[str, object] = {"temperature": 1.0, "top_p": 0.9}
PENALISED: dict[str, object] = {
    "presence_penalty": 0.7,
    "frequency_penalty": 0.3,
    "repetition_penalty": 1.2,
    "logit_bias": {5: 2.0, 9: -100.0},
    "min_p": 0.02,
    "min_tokens": 20,
    "logprobs": 3,
}


@cache
def requests() -> tuple[Request, ...]:
    """16 of all kinds: shared and own prompts, greedy, sampled, penalised; most run long."""
    rng = random.Random(1)
    made = list[Request]()
    for index in range(16):
        prompt = [rng.randrange(EOS) for _ in range(rng.randrange(1, 60))]
        if index % 3 == 0:
            prompt = [*range(20), *prompt]
        params: dict[str, object] = {"max_tokens": 40, "ignore_eos": index % 4 != 1}
        if index % 2:
            params |= SAMPLED | {"seed": index}
        if index % 4 >= 2:
            params |= PENALISED
        made.append(make_request(f"r{index}", prompt, **params))
    return tuple(made)


@cache
def alone() -> dict[str, list[RequestOutput]]:
    """Each request on an engine of its own."""
    return {r.request_id: TinyEngine().run([r])[r.request_id] for r in requests()}


def assert_equal(got: Mapping[RequestId, Sequence[RequestOutput]]) -> None:
    assert got
    for name, outputs in got.items():
        expected = alone()[name]
        assert tokens(outputs) == tokens(expected), name
        assert outputs[-1].finish_reason == expected[-1].finish_reason
        assert logprobs(outputs) == pytest.approx(logprobs(expected), abs=1e-5)


def logprobs(outputs: Sequence[RequestOutput]) -> list[float]:
    return [
        value
        for output in outputs
        for entry in output.logprobs or ()
        for value in (entry.logprob, *(logprob for _, logprob in entry.top))
    ]


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_are_the_same_in_every_engine(name: str) -> None:
    engine = TinyEngine(ENGINES[name])
    first = engine.run(requests())
    assert_equal(first)
    again = engine.run(requests())  # now with whatever the first run left in the prefix cache
    assert_equal(again)
    cached = sum(out[0].num_cached_tokens for out in again.values())
    assert (cached > 0) == engine.scheduler.config.prefix_caching
    if "few" in name:
        assert engine.num_preemptions > 0
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks


def test_the_matrix_is_not_trivial() -> None:
    """Different requests give different tokens, seeds matter, and logprobs are there to compare."""
    answers = {name: tokens(outputs) for name, outputs in alone().items()}
    assert len({tuple(answer) for answer in answers.values()}) == len(answers)
    assert any(len(set(answer)) > 10 for answer in answers.values())
    assert sum(len(logprobs(outputs)) for outputs in alone().values()) > 500
    reseeded = requests()[1]
    reseeded = replace(reseeded, params=replace(reseeded.params, seed=99))
    assert tokens(TinyEngine().run([reseeded])[reseeded.request_id]) != answers["r1"]


def test_requests_that_arrive_and_leave_in_between_change_nothing() -> None:
    engine = TinyEngine(replace(CONFIG, max_num_batched_tokens=24))
    outputs: dict[RequestId, list[RequestOutput]] = {r.request_id: [] for r in requests()}
    pending = list(requests())
    rng = random.Random(3)
    while pending or engine.scheduler.has_work:
        if pending and rng.random() < 0.3:
            engine.scheduler.add(pending.pop(0), 0.0)
            visitor = make_request(f"visitor{len(pending)}", range(rng.randrange(1, 30)))
            engine.scheduler.add(visitor, 0.0)
        if rng.random() < 0.1 and pending:
            engine.scheduler.finish(
                make_request(f"visitor{len(pending)}", [1]).request_id, "abort", 0.0
            )
        for output in engine.step():
            if output.request_id in outputs:
                outputs[output.request_id].append(output)
    assert_equal(outputs)


def test_a_preempted_request_continues_where_it_was() -> None:
    """Preempted again and again by urgent newcomers, with and without the prefix cache's help."""
    for caching in (True, False):
        engine = TinyEngine(replace(CONFIG, max_num_seqs=1, prefix_caching=caching))
        request = replace(requests()[3], priority=1)
        engine.scheduler.add(request, 0.0)
        outputs = list[RequestOutput]()
        for index in range(400):
            if index % 5 == 4:
                urgent = make_request(f"urgent{index}", [index % EOS], max_tokens=1)
                engine.scheduler.add(urgent, 0.0)
            outputs += [o for o in engine.step() if o.request_id == request.request_id]
            if not engine.scheduler.has_work:
                break
        assert engine.num_preemptions > 5
        assert tokens(outputs) == tokens(alone()["r3"])
