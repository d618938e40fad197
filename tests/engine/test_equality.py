"""A request's tokens depend on the request alone: not on its company, the cache, chunking, or being
preempted. Tiny random model, float32, exact tokens; logprobs to 1e-5."""

import random
from dataclasses import replace

import pytest

from server.engine.outputs import RequestOutput
from server.engine.types import RequestId
from tests.engine.answers import ENGINES, alone, assert_equal, logprobs, requests
from tests.engine.tiny import CONFIG, EOS, TinyEngine, make_request, tokens


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
