"""`n`, `best_of` and batches of prompts, on a real engine with a tiny random model: each answer is
the one that its seed and its prompt give alone."""

import asyncio
import itertools
from dataclasses import replace

import httpx
import pytest

from server.api.generation.job_group import choice_seed
from tests.api import openai_types
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    Json,
    assert_error,
    chat_body,
    chunks,
    live_app,
    post,
)
from tests.api.tiny_server import LIMITS, TinyServer, tiny_server
from tests.doubles import ScriptedEngine, ids, one_by_one

FIELDS: Json = {"max_tokens": 24, "seed": 7, "top_p": 0.95, "return_token_ids": True}


def body(path: str, **fields: object) -> Json:
    """With logprobs."""
    if path == CHAT:
        return chat_body(logprobs=True, top_logprobs=2) | FIELDS | fields
    return {"prompt": "A long enough prompt: ", "logprobs": 2} | FIELDS | fields


def assert_same(found: object, wanted: object) -> None:
    """Equal, logprobs up to 1e-5; a choice's index doesn't count."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5)
    elif isinstance(wanted, dict) and isinstance(found, dict):
        assert found.keys() == wanted.keys()
        for key in wanted.keys() - {"index"}:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list) and isinstance(found, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


def test_seeds_of_choices() -> None:
    """They are documented: clients can ask for one choice again. `echo -n 7/1 | b2sum -l 64`."""
    assert choice_seed(7, 0) == 7
    assert choice_seed(7, 1) == 2174948161648732372
    seeds = [choice_seed(seed, index) for seed in range(50) for index in range(128)]
    assert len(set(seeds)) == len(seeds)
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("policy", ["off", "chain", "cape", "beam", "auto"])
async def test_four_answers_are_those_of_their_seeds(path: str, policy: str) -> None:
    async with tiny_server() as server:
        alone = [
            (await server.post(path, **body(path, seed=choice_seed(7, index))))["choices"][0]
            for index in range(4)
        ]
    async with tiny_server() as server:
        whole = await server.post(path, **body(path, n=4, speculation={"policy": policy}))
    openai_types.parse(whole)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert_same(whole["choices"], alone)
    assert len({tuple(choice["token_ids"]) for choice in alone}) == 4


@pytest.mark.parametrize("caching", [True, False])
async def test_usage(caching: bool) -> None:
    """The prompt once, and as cached what was there before the request."""
    async with tiny_server(replace(LIMITS, prefix_caching=caching)) as server:
        first = await server.post(COMPLETIONS, **body(COMPLETIONS, n=4))
        again = await server.post(COMPLETIONS, **body(COMPLETIONS, n=4))
    num_prompt = len("A long enough prompt: ")
    num_output = sum(len(choice["token_ids"]) for choice in first["choices"])
    assert first["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": 20 if caching else 0}
    assert_same(again["choices"], first["choices"])


async def test_the_prompt_is_computed_once() -> None:
    async with tiny_server() as server:
        await server.post(COMPLETIONS, **body(COMPLETIONS, n=4))
        found = sum(step.prefix_cache_hits for step in server.steps)
    assert found == 3 * 20  # of 22 tokens; blocks have 4


def joined(path: str, found: list[Json]) -> tuple[list[Json], Json]:
    """The choices of a whole answer from the chunks of a streamed one, and its usage."""
    *others, last = found
    assert last["choices"] == []
    by_index: dict[int, Json] = {}
    for chunk in others:
        (choice,) = chunk["choices"]
        index = choice["index"]
        assert by_index.get(index, {}).get("finish_reason") is None
        so_far = by_index.setdefault(index, {"text": "", "token_ids": [], "logprobs": []})
        so_far["text"] += choice["delta"].get("content", "") if path == CHAT else choice["text"]
        so_far["token_ids"] += choice.get("token_ids", [])
        so_far["logprobs"] += entries(path, choice["logprobs"])
        so_far["finish_reason"] = choice["finish_reason"]
        prompt = choice.get("prompt_token_ids") or chunk.get("prompt_token_ids")
        if prompt:
            assert "prompt" not in so_far
            assert so_far["token_ids"] == []
            so_far["prompt"] = prompt
    return [by_index[index] for index in sorted(by_index)], last["usage"]


def split(path: str, whole: Json) -> list[Json]:
    """The same of a whole answer."""
    return [
        {
            "text": choice["message"]["content"] if path == CHAT else choice["text"],
            "token_ids": choice["token_ids"],
            "logprobs": entries(path, choice["logprobs"]),
            "finish_reason": choice["finish_reason"],
            "prompt": whole.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        }
        for choice in whole["choices"]
    ]


def entries(path: str, logprobs: Json | None) -> list[object]:
    """One for each token."""
    if logprobs is None:
        return []
    if path == CHAT:
        return list(logprobs["content"])
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return [list(entry) for entry in zip(*(logprobs[name] for name in names), strict=True)]


STREAMED: list[tuple[str, Json]] = [
    (CHAT, {}),
    (COMPLETIONS, {}),
    (COMPLETIONS, {"echo": True}),
    (COMPLETIONS, {"echo": True, "logprobs": None}),
    (COMPLETIONS, {"echo": True, "prompt": [ids("Two of "), [104, 105]]}),
]


@pytest.mark.parametrize(("path", "fields"), STREAMED)
async def test_a_stream_says_the_same(path: str, fields: Json) -> None:
    asked = body(path, n=3, ignore_eos=True, **fields)
    async with tiny_server() as server:
        whole = await server.post(path, **asked)
        streamed = await server.client.post(
            path, json={**asked, "stream": True, "stream_options": {"include_usage": True}}
        )
    openai_types.parse(whole)
    choices, usage = joined(path, chunks(streamed.text))
    assert_same(choices, split(path, whole))
    del usage["prompt_tokens_details"], whole["usage"]["prompt_tokens_details"]
    assert usage == whole["usage"]
    indexes = [c["index"] for chunk in chunks(streamed.text) for c in chunk["choices"]]
    turns = len(list(itertools.groupby(indexes)))
    assert turns > 3 * len(whole["choices"])  # as they come, not one after the other


async def test_a_batch_of_prompts() -> None:
    """Choice i * n + j is answer j to prompt i, the same as alone."""
    prompts = ["Once upon a time", "Once upon a tide", "x"]
    common = {"max_tokens": 12, "seed": 3, "n": 2, "logprobs": 0}
    async with tiny_server() as server:
        whole = await server.post(COMPLETIONS, prompt=prompts, **common)
        alone = [await server.post(COMPLETIONS, prompt=each, **common) for each in prompts]
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    expected = [choice for answer in alone for choice in answer["choices"]]
    assert_same(whole["choices"], expected)
    assert whole["usage"]["prompt_tokens"] == sum(map(len, prompts))


async def test_equal_prompts_without_a_seed_get_different_answers() -> None:
    """16 tokens at temperature 2 from 258: equal by chance once in 10^20."""
    async with tiny_server() as server:
        whole = await server.post(COMPLETIONS, prompt=["hi", "hi"], n=2, temperature=2)
    assert len({choice["text"] for choice in whole["choices"]}) == 4


async def test_prompts_of_a_batch_are_named_in_errors() -> None:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=64)
    long = {"prompt": ["ok", "x" * 64]}
    response = await post(engine, COMPLETIONS, long)
    assert_error(response, 400, "context_length_exceeded", "prompt.1")
    too_many = {"prompt": ["a"] * 9, "n": 128}
    error = assert_error(await post(engine, COMPLETIONS, too_many), 400, "invalid_value", "prompt")
    assert "9 prompts with 128 answers each are more than 1024" in error["message"]
    assert engine.requests == []


async def test_best_of() -> None:
    """The highest mean logprob of a token first; all that was generated is counted."""
    common = {"prompt": "Say it well: ", "max_tokens": 9, "seed": 5, "ignore_eos": True}
    async with tiny_server() as server:
        every = await server.post(COMPLETIONS, **common, n=6, logprobs=0)
        best = await server.post(COMPLETIONS, **common, n=2, best_of=6)
        with_logprobs = await server.post(COMPLETIONS, **common, n=2, best_of=6, logprobs=0)
    answers = sorted(
        every["choices"],
        key=lambda choice: sum(choice["logprobs"]["token_logprobs"]) / 9,
        reverse=True,
    )
    wanted = [answer["text"] for answer in answers[:2]]
    assert wanted != [answer["text"] for answer in every["choices"][:2]]
    assert [choice["text"] for choice in best["choices"]] == wanted
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert [choice["logprobs"] for choice in with_logprobs["choices"]] == [
        answer["logprobs"] for answer in answers[:2]
    ]
    assert best["usage"]["completion_tokens"] == 6 * 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 3, "best_of": 2}, "best_of: 2 is less than n, 3"),
        ({"best_of": 2, "stream": True}, "best_of: can't be streamed"),
    ],
)
async def test_best_of_that_makes_no_sense(fields: Json, message: str) -> None:
    response = await post(ScriptedEngine([]), COMPLETIONS, {"prompt": "x", **fields})
    assert assert_error(response, 400, "invalid_value", "best_of")["message"] == message


async def test_a_stop_string_ends_its_own_answer() -> None:
    """Taken from one answer's middle; the others go on."""
    plain = {"prompt": "Go on ", "max_tokens": 20, "seed": 1, "n": 4, "ignore_eos": True}
    async with tiny_server() as server:
        free = await server.post(COMPLETIONS, **plain)
        texts = [choice["text"] for choice in free["choices"]]
        stop = next(
            char
            for char in texts[1][3:]
            if char != "\ufffd" and all(char not in text for text in (texts[0], *texts[2:]))
        )
        cut = await server.post(COMPLETIONS, **plain, stop=stop)
    assert [choice["text"] for choice in cut["choices"]] == [
        texts[0],
        texts[1][: texts[1].index(stop)],
        *texts[2:],
    ]
    reasons = [choice["finish_reason"] for choice in cut["choices"]]
    assert reasons == ["length", "stop", "length", "length"]


async def until_empty(server: TinyServer) -> None:
    async with asyncio.timeout(60):
        while not server.is_empty():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"prompt": ["a", "b" * 40], "echo": True}])
async def test_a_client_that_leaves_ends_them_all(fields: Json, stream: bool) -> None:
    endless = {"prompt": "On and on ", "max_tokens": 200, "ignore_eos": True, "n": 4}
    async with tiny_server() as server, live_app(server.app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            asked = {**endless, **fields, "stream": stream}
            asking = asyncio.create_task(read_some(client, asked))
            while not server.scheduler.running:
                await asyncio.sleep(0.005)
            if stream:
                await asking
            asking.cancel()
        await until_empty(server)


async def read_some(client: httpx.AsyncClient, asked: Json) -> None:
    async with client.stream("POST", COMPLETIONS, json=asked) as response:
        lines = response.aiter_lines()
        for _ in range(5):
            await anext(lines)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failure_is_that_of_the_answer(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    response = await post(engine, CHAT, chat_body(n=3, stream=stream))
    if stream:
        assert '"message":"the engine has stopped"' in response.text
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert_error(response, 500, "internal_error")
    assert engine.num_open == 0


async def test_speculation_of_all_choices() -> None:
    """Summed in a whole answer; in a stream each choice's last chunk has its own."""
    asked = body(COMPLETIONS, n=3, speculation={"policy": "chain", "trace": True})
    async with tiny_server() as server:
        whole = await server.post(COMPLETIONS, **asked)
        streamed = chunks(
            (await server.client.post(COMPLETIONS, json={**asked, "stream": True})).text
        )
    reports = {
        chunk["choices"][0]["index"]: chunk["speculation"]
        for chunk in streamed
        if "speculation" in chunk
    }
    total = whole["speculation"]
    assert sum(total["sources"].values()) == whole["usage"]["completion_tokens"]
    for name in ("steps", "drafted_tokens", "accepted_tokens", "leaves_accepted"):
        assert total[name] == sum(report[name] for report in reports.values()), name
    assert total["tokens_per_step"] == pytest.approx(
        (total["steps"] + total["accepted_tokens"]) / total["steps"]
    )


async def test_every_choice_begins_with_its_role() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    app_chunks = chunks((await post(engine, CHAT, chat_body(n=2, stream=True))).text)
    roles = [
        choice["index"]
        for chunk in app_chunks
        for choice in chunk["choices"]
        if "role" in choice["delta"]
    ]
    assert roles == [0, 1]
    assert len({request.request_id for request in engine.requests}) == 2
    assert engine.requests[1].shares_prompt_with == engine.requests[0].request_id
