"""`/v1/messages`: answers, whole and streamed, to conversations of text."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.harness import INFO, MODEL, Json, in_process, live_server, make_app
from tests.api.message_types import (
    COUNT,
    MESSAGES,
    assistant,
    call,
    check_order,
    message_body,
    parse,
    result,
    stream_events,
    streamed,
    user,
)
from tests.api.response_types import prompt_of as as_text
from tests.api.speculating import SPECULATING, SpeculatingEngine
from tests.api.thinking import prompt_of as shown_prompt
from tests.api.thinking import thinking_app
from tests.api.tool_chats import says
from tests.doubles import EOS_ID, ScriptedEngine, ids, one_by_one

TURNS = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""

TEXT = "Grüße 你好 🙂"


async def ask(engine: ScriptedEngine, path: str = MESSAGES, **body: Any) -> Json:
    return await ask_app(make_app(engine), path, **body)


async def ask_app(app: FastAPI, path: str = MESSAGES, **body: Any) -> Json:
    async with in_process(app) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def prompt_of(**body: Any) -> str:
    """The prompt that a request becomes, as PlainTemplate writes it."""
    engine = says(one_by_one("a"))
    await ask(engine, **message_body(**body))
    (request,) = engine.requests
    return as_text(request.prompt_token_ids)


async def test_a_whole_answer() -> None:
    answer = await ask(ScriptedEngine(one_by_one(TEXT)), **message_body(model=MODEL))
    message = parse(answer)
    assert message.id.startswith("msg_")
    assert answer == {
        "id": message.id,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len("user:hi\n") - 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": len(TEXT.encode()) + 1,
            "output_tokens_details": {"thinking_tokens": 0},
            "service_tier": "standard",
        },
    }


async def test_a_streamed_answer() -> None:
    async with in_process(make_app(ScriptedEngine(one_by_one(TEXT)))) as client:
        response = await client.post(MESSAGES, json=message_body(stream=True))
        whole = await client.post(MESSAGES, json=message_body())
    assert response.headers["content-type"].startswith("text/event-stream")
    found = stream_events(response.text)
    check_order(found)
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert start["usage"] == {**whole.json()["usage"], "output_tokens": 0}
    assert {**streamed(found), "id": ""} == {**whole.json(), "id": ""}


async def test_the_prompt_of_a_conversation() -> None:
    prompt = await prompt_of(
        system=[{"type": "text", "text": "be kind"}, {"type": "text", "text": "be brief"}],
        messages=[
            user("a"),
            {"role": "user", "content": "b"},
            assistant("c", {"type": "thinking", "thinking": "why?", "signature": "x"}),
            assistant({"type": "redacted_thinking", "data": "…"}),
            user("d"),
            {"role": "system", "content": "be quick"},
            user(),
        ],
    )
    assert prompt == (
        "system:be kind\nbe brief\nuser:a\nb\nassistant:c\nuser:d\nsystem:be quick\nuser:\n"
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_goes_on_with_the_last_message(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one(" B) Sol"))
    messages = [user("Which?"), assistant("The best"), assistant("answer is (")]
    async with in_process(thinking_app(engine, TURNS)) as client:
        response = await client.post(MESSAGES, json=message_body(messages=messages, stream=stream))
    answer = streamed(stream_events(response.text)) if stream else response.json()
    assert shown_prompt(engine) == "<|user|>Which?<end><|assistant|>The best\nanswer is ("
    assert answer["content"] == [{"type": "text", "text": " B) Sol"}]


async def test_a_system_prompt_as_text() -> None:
    assert await prompt_of(system="be kind") == "system:be kind\nuser:hi\n"
    assert await prompt_of(system="") == "user:hi\n"


async def test_calls_and_results_in_the_prompt() -> None:
    found = await prompt_of(
        messages=[
            user("How warm?"),
            assistant("Let me see.", call(city="Rom 🙂"), call("toolu_2", "clock")),
            user(result([{"type": "text", "text": "18"}, {"type": "text", "text": "°C"}])),
            user(result("no clock", "toolu_2", is_error=True), "And now?"),
        ],
    )
    assert '{"name": "weather", "arguments": {"city": "Rom 🙂"}}' in found
    assert "Let me see." in found
    assert r"18\n°C" in found
    assert "Error: no clock" in found
    assert found.index("°C") < found.index("Error: no clock") < found.index("And now?")


async def test_a_result_may_be_empty() -> None:
    for empty in (None, "", []):
        assert "tool_response" in await prompt_of(
            messages=[user("a"), assistant(call()), user(result(empty))]
        )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("one two three"))
    app = make_app(engine)
    body = message_body(stop_sequences=["four", " three", "two"], stream=stream)
    async with in_process(app) as client:
        response = await client.post(MESSAGES, json=body)
    answer = streamed(stream_events(response.text)) if stream else response.json()
    assert answer["content"] == [{"type": "text", "text": "one "}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "two")


async def test_the_longest_answer() -> None:
    body = message_body(max_tokens=4)
    answer = await ask(ScriptedEngine([[97]] * 4), **body)
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 4)


async def test_more_tokens_than_the_context_has_room_for() -> None:
    """Agents ask for 32,000 of them, whatever the model."""
    engine = ScriptedEngine([[97]] * 12, max_model_len=20)
    answer = await ask(engine, **message_body(max_tokens=32_000))
    assert engine.requests[0].params.max_tokens == 12
    assert answer["stop_reason"] == "model_context_window_exceeded"


async def test_an_empty_answer_has_an_empty_text() -> None:
    answer = await ask(ScriptedEngine(one_by_one("")), **message_body())
    assert answer["content"] == [{"type": "text", "text": ""}]


async def test_sampling() -> None:
    engine = ScriptedEngine(one_by_one("a"))
    await ask(engine, **message_body(temperature=0.5, top_p=0.9, top_k=7, seed=3))
    params = engine.requests[0].params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.9, 7, 3)


async def test_counting_tokens() -> None:
    body = message_body(system="be kind")
    del body["max_tokens"]
    assert await ask(ScriptedEngine([]), COUNT, **body) == {
        "input_tokens": len("system:be kind\nuser:hi\n")
    }


CACHED: list[Json] = [
    {"cache_control": {"type": "ephemeral"}},
    {
        "system": [
            {"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        ]
    },
    {"messages": [user({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}})]},
    {"tools": [{"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}}]},
    {
        "messages": [
            user("a"),
            assistant({**call(), "cache_control": {"type": "ephemeral"}}),
            user(result("b", cache_control={"type": "ephemeral"})),
        ]
    },
]


@pytest.mark.parametrize("fields", CACHED)
async def test_what_was_added_to_the_cache_is_counted(fields: Json) -> None:
    """The scripted engine finds three tokens in the cache."""
    app = make_app(says(one_by_one("a")), info=replace(INFO, cache_block=4))
    usage = (await ask_app(app, **message_body(**fields)))["usage"]
    body = message_body(**fields)
    num_prompt = (await ask(says([]), COUNT, **body))["input_tokens"]
    assert usage["cache_read_input_tokens"] == 3
    assert usage["cache_creation_input_tokens"] == num_prompt // 4 * 4 - 3
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert sum(usage[part] for part in parts) == num_prompt


async def test_without_cache_control_nothing_counts_as_added() -> None:
    app = make_app(says(one_by_one("a")), info=replace(INFO, cache_block=4))
    for field in ("cache_control", "system"):
        usage = (await ask_app(app, **message_body(**{field: None})))["usage"]
        assert usage["cache_creation_input_tokens"] == 0


async def test_what_speculation_did() -> None:
    app = make_app(SpeculatingEngine([ids("abc"), ids("de"), ids("f")]), info=SPECULATING)
    body = message_body(max_tokens=6, speculation={"trace": True})
    async with in_process(app) as client:
        answer = (await client.post(MESSAGES, json=body)).json()
        stream = await client.post(MESSAGES, json={**body, "stream": True})
        off = await client.post(MESSAGES, json={**body, "speculation": {"policy": "off"}})
    parse(answer)
    report = answer["speculation"]
    assert (report["steps"], report["sources"]) == (3, {"trunk": 1, "leaf": 2, "target": 3})
    assert stream_events(stream.text)[-2]["speculation"] == report
    assert "speculation" not in off.json()


async def test_token_ids() -> None:
    app = make_app(ScriptedEngine(one_by_one("ab")))
    body = message_body(return_token_ids=True)
    async with in_process(app) as client:
        answer = (await client.post(MESSAGES, json=body)).json()
        stream = await client.post(MESSAGES, json={**body, "stream": True})
    assert answer["prompt_token_ids"] == ids("user:hi\n")
    assert answer["token_ids"] == one_by_one("ab")[0] + one_by_one("b")[0] + [EOS_ID]
    found = stream_events(stream.text)
    assert found[0]["message"]["prompt_token_ids"] == answer["prompt_token_ids"]
    assert found[-2]["token_ids"] == answer["token_ids"]


async def test_pings_while_nothing_happens() -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    async with live_server(engine) as url, httpx.AsyncClient() as client:
        kinds: list[str] = []
        body = message_body(stream=True)
        async with client.stream("POST", f"{url}{MESSAGES}", json=body) as response:
            async for line in response.aiter_lines():
                kinds += [line.removeprefix("event: ")] if line.startswith("event: ") else []
                if kinds.count("ping") == 2:
                    engine.let_go.set()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


@given(
    text=st.text(max_size=12),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    stops=st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3),
    ends=st.booleans(),
)
@settings(max_examples=40, deadline=None)
async def test_any_stream_is_in_order_and_adds_up_to_the_whole_answer(
    text: str, sizes: list[int], stops: list[str], ends: bool
) -> None:
    token_ids = [*ids(text), *(one_by_one("")[0] if ends else ids("!"))]
    steps: list[list[int]] = []
    for size in sizes * len(token_ids):
        if token_ids:
            steps.append(token_ids[:size])
            token_ids = token_ids[size:]
    body = message_body(stop_sequences=stops)
    async with in_process(make_app(ScriptedEngine(steps))) as client:
        whole = (await client.post(MESSAGES, json=body)).json()
        stream = await client.post(MESSAGES, json={**body, "stream": True})
    found = stream_events(stream.text)
    check_order(found)
    parse(whole)
    assert {**streamed(found), "id": ""} == {**whole, "id": ""}
