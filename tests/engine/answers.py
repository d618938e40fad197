"""Requests of all kinds for the tiny model, and what each is answered alone."""

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
