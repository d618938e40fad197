"""What of a body reaches the engine."""

from dataclasses import asdict, replace

import pytest

from server.engine.types import SamplingDefaults, SamplingParams
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    INFO,
    Json,
    chat_body,
    in_process,
    make_app,
    post,
)
from tests.doubles import ScriptedEngine, ids, one_by_one

NUM_PROMPT = len("user:hi\n")


async def params_of(path: str, body: Json, max_model_len: int = 512) -> SamplingParams:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=max_model_len)
    response = await post(engine, path, body)
    assert response.status_code == 200, response.text
    return engine.requests[0].params


async def test_every_sampling_field() -> None:
    body = chat_body(
        max_completion_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        seed=-(2**63),
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.5,
        logit_bias={"0": -100, "257": 100.0},
        logprobs=True,
        top_logprobs=20,
        stop_token_ids=[3, 3],
        ignore_eos=True,
    )
    assert await params_of(CHAT, body) == SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        seed=-(2**63),
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        repetition_penalty=1.5,
        logit_bias={0: -100.0, 257: 100.0},
        logprobs=20,
        stop_token_ids=frozenset({3}),
        ignore_eos=True,
    )


async def test_defaults() -> None:
    params = await params_of(CHAT, chat_body())
    assert params == SamplingParams(max_tokens=512 - NUM_PROMPT, seed=params.seed)


async def test_the_models_defaults_count_where_a_request_says_nothing() -> None:
    """null says nothing; 0 says something."""
    own = SamplingDefaults(0.7, top_p=0.8, top_k=20, min_p=0.1, repetition_penalty=1.05)
    engine = ScriptedEngine(one_by_one("a"))
    said = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    async with in_process(make_app(engine, info=replace(INFO, default_sampling=own))) as client:
        for fields in ({}, dict.fromkeys(said), said):
            response = await client.post(CHAT, json=chat_body(seed=1, **fields))
            assert response.status_code == 200, response.text
        answer = await client.post("/v1/responses", json={"input": "hi"})
    drawn = SamplingParams(max_tokens=512 - NUM_PROMPT, seed=1, **asdict(own))
    greedy = SamplingParams(max_tokens=512 - NUM_PROMPT, seed=1, temperature=0.0)
    assert [request.params for request in engine.requests[:3]] == [drawn, drawn, greedy]
    assert (answer.json()["temperature"], answer.json()["top_p"]) == (0.7, 0.8)


async def test_each_unseeded_request_gets_its_own_seed() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    for _ in range(2):
        await post(engine, CHAT, chat_body())
    first, second = (request.params.seed for request in engine.requests)
    assert first != second
    assert 0 <= first < 2**63


async def test_priority() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    await post(engine, CHAT, chat_body(priority=-4))
    assert engine.requests[0].priority == -4


@pytest.mark.parametrize(("given", "expected"), [(0, 0), (-1, 0), (5, 5), (2**31 - 1, 258)])
async def test_top_k(given: int, expected: int) -> None:
    assert (await params_of(CHAT, chat_body(top_k=given))).top_k == expected


@pytest.mark.parametrize(("given", "expected"), [(0, 0), (1e-9, 0), (1e-300, 0), (2, 2)])
async def test_tiny_temperatures_are_greedy(given: float, expected: float) -> None:
    assert (await params_of(CHAT, chat_body(temperature=given))).temperature == expected


@pytest.mark.parametrize(
    ("path", "body", "max_model_len", "expected"),
    [
        (COMPLETIONS, {"prompt": "abc"}, 512, 16),
        (COMPLETIONS, {"prompt": "abc"}, 10, 7),
        (COMPLETIONS, {"prompt": "abc", "max_tokens": 7}, 10, 7),
        (CHAT, chat_body(max_tokens=3), 512, 3),
        (CHAT, chat_body(max_tokens=3, max_completion_tokens=3), 512, 3),
    ],
)
async def test_max_tokens(path: str, body: Json, max_model_len: int, expected: int) -> None:
    assert (await params_of(path, body, max_model_len)).max_tokens == expected


async def test_a_prompt_that_looks_like_json_is_text() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    await post(engine, COMPLETIONS, {"prompt": '["a"]'})
    assert engine.requests[0].prompt_token_ids == tuple(ids('["a"]'))
