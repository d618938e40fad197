"""`/v1/messages`: errors of every layer are in Anthropic's shape."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.api.generation.schema.tools import MAX_CALLS
from server.api.middleware.admission import AdmissionLimits
from server.api.middleware.api_keys import ApiKeys
from server.api.schema.fields import MAX_MESSAGES, MAX_PARTS
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    Json,
    assert_error,
    chat_body,
    events,
    in_process,
    live_server,
    make_app,
)
from tests.api.message_types import (
    COUNT,
    MESSAGES,
    assert_message_error,
    assistant,
    call,
    message_body,
    result,
    stream_events,
    user,
)
from tests.api.thinking import thinking_app
from tests.api.tool_chats import says
from tests.doubles import ScriptedEngine, one_by_one

VERSION = {"anthropic-version": "2023-06-01"}
BAD = "invalid_request_error"
IMAGE: Json = {"type": "image", "source": {"type": "url", "url": "http://a/b.png"}}


def document(**source: Any) -> Json:
    return {"type": "document", "source": {"type": "text", "data": "a", **source}}


def last(*blocks: Json | str) -> Json:
    return {"messages": [user("a"), assistant(call()), user(*blocks)]}


FIELDS: list[tuple[Json, str]] = [
    ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": -1}, "max_tokens: "),
    ({"messages": []}, "messages: "),
    ({"messages": "hi"}, "messages: "),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: "),
    ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: "),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name: unknown"),
    ({"messages": [user("a"), assistant(call())]}, "messages.1: ends the conversation"),
    ({"messages": [user("a"), assistant("b"), assistant(call())]}, "messages.1: ends the conv"),
    ({"messages": [user("a"), assistant("")]}, "messages.1: ends the conversation"),
    ({"messages": [user("a"), assistant({"type": "redacted_thinking"})]}, "messages.1: ends the"),
    ({"messages": [user(IMAGE)]}, "messages.0.content.0.type: Only blocks of types 'text', "),
    ({"messages": [user("a", document())]}, "messages.0.content.1.type: Only blocks of types"),
    ({"messages": [user({"text": "a"})]}, "messages.0.content.0.type: Field required"),
    ({"messages": [user({"type": 3})]}, "messages.0.content.0.type: "),
    ({"messages": [user({"type": "text", "txt": "a"})]}, "messages.0.content.0.text: Field req"),
    ({"messages": [user(call())]}, "messages.0.content.0.type: only messages of role 'assistant'"),
    ({"messages": [assistant(result())]}, "messages.0.content.0.type: only messages of role 'us"),
    ({"messages": [{"role": "system", "content": [call()]}]}, "messages.0.content.0.type: only"),
    (last(result(call_id="toolu_9")), "messages.2.content.0.tool_use_id: no earlier message"),
    (last("b", result([IMAGE])), "messages.2.content.1.content.0.type: Only blocks of type 'te"),
    (last(result(3)), "messages.2.content.0.content: "),
    (last(result("a", is_error="yes")), "messages.2.content.0.is_error: "),
    (
        {"messages": [assistant(call(city="\ud800")), user(result())]},
        "messages.0.content.0.input: must be valid Unicode",
    ),
    ({"system": [IMAGE]}, "system.0.type: Only blocks of type 'text'"),
    ({"stop_sequences": "a"}, "stop_sequences: "),
    ({"stop_sequences": [""]}, "stop_sequences.0: "),
    ({"stop_sequences": ["a"], "stop": "b"}, "stop: can't be combined with stop_sequences"),
    ({"model": "claude-opus-4"}, "model 'claude-opus-4' does not exist"),
    ({"temperature": 3}, "temperature: "),
    ({"min_tokens": 200}, "min_tokens: 200 is more than max_tokens, 100"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type: "),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required"),
    ({"container": "c"}, "container: This field is not supported yet"),
    ({"mcp_servers": [{"url": "http://a"}]}, "mcp_servers: This field is not supported yet"),
    (
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        "context_management.edits.0",
    ),
    ({"metadata": {"user": "me"}}, "metadata.user: unknown field"),
    ({"output_config": {"effort": "none"}}, "output_config.effort: "),
    ({"speculation": {"steps": True}}, "speculation.steps: "),
    ({"temprature": 1}, "temprature: unknown field"),
    ({"n": 2}, "n: unknown field"),
]


@pytest.mark.parametrize(("fields", "begin"), FIELDS)
async def test_fields(fields: Json, begin: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(
            MESSAGES,
            content=json.dumps(message_body(**fields)),
            headers={"content-type": "application/json"},
        )
    is_model = "model" in fields
    status, kind = (404, "not_found_error") if is_model else (400, BAD)
    assert_message_error(response, status, kind, begin)
    assert engine.requests == []


async def test_other_blocks_are_named() -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        for block in (IMAGE, document(), {"type": "server_tool_use"}, {"type": "new thing"}):
            response = await client.post(MESSAGES, json=message_body(messages=[user(block)]))
            message = assert_message_error(response, 400, BAD, "messages.0.content.0.type: ")
            assert repr(block["type"]) in message


async def test_unknown_fields_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(
        ScriptedEngine(one_by_one("a")), middleware=replace(MIDDLEWARE, drops_unknown_fields=True)
    )
    body = message_body(mood=1, messages=[user({"type": "text", "text": "a", "mood": 2})])
    with caplog.at_level(logging.WARNING):
        async with in_process(app) as client:
            assert (await client.post(MESSAGES, json=body)).status_code == 200
    assert "unknown field 'messages.*.content.*.mood' was left out" in caplog.text


SIZES: list[tuple[Json, str]] = [
    ({"messages": [user("a")] * (MAX_MESSAGES + 1)}, "messages: "),
    ({"messages": [user(*["a"] * (MAX_PARTS + 1))]}, "messages.0.content: "),
    (
        {"messages": [assistant(*[call()] * MAX_CALLS)] * 2 + [user(result())]},
        "messages.0: makes 2048 tool_calls, of which at most 1024 are taken",
    ),
    (
        {"messages": [assistant(call()), *[user(*[result()] * 1000)] * 11]},
        "messages: makes 11001 messages, of which at most 10000 are taken",
    ),
]


@pytest.mark.parametrize(("fields", "begin"), SIZES)
async def test_sizes(fields: Json, begin: str) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        response = await client.post(MESSAGES, json=message_body(**fields))
    assert_message_error(response, 400, BAD, begin)


async def test_many_texts_of_one_turn() -> None:
    """More than one message can have are fine where they come in several."""
    engine = says(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        messages = [user(*["a"] * MAX_PARTS)] * 2
        response = await client.post(MESSAGES, json=message_body(messages=messages))
    assert response.status_code == 200, response.text


async def test_a_prompt_that_is_too_long() -> None:
    """Agents know it by these words."""
    for body in (message_body(system="a" * 600), message_body(system="a" * 100_000)):
        async with in_process(make_app(ScriptedEngine([]))) as client:
            response = await client.post(MESSAGES, json=body)
        assert_message_error(response, 400, BAD, "prompt is too long: this model's maximum")


@pytest.mark.parametrize("length", [600, 16_000, 20_000, 100_000, 600_000])
async def test_a_prompt_that_is_too_long_is_counted(length: int) -> None:
    """Agents find out by it how much of a conversation to leave out."""
    body = message_body(system="a" * length)
    async with in_process(make_app(ScriptedEngine([]))) as client:
        counted = (await client.post(COUNT, json=body)).json()
        short = (await client.post(COUNT, json={**body, "system": "a"})).json()
    assert counted["input_tokens"] == short["input_tokens"] + length - 1


@pytest.mark.parametrize(
    ("fields", "on", "name"),
    [
        ({"output_config": {"effort": "low"}}, False, "output_config.effort"),
        ({"thinking": {"type": "adaptive"}}, False, "thinking"),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            False,
            "output_config.effort",
        ),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, True, "thinking"),
    ],
)
async def test_fields_that_contradict_the_templates_variables(
    fields: Json, on: bool, name: str
) -> None:
    body = message_body(**fields, chat_template_kwargs={"enable_thinking": on})
    async with in_process(thinking_app(ScriptedEngine([]))) as client:
        response = await client.post(MESSAGES, json=body)
    assert_message_error(response, 400, BAD, f"{name}: is ")


# One case for each status that has nothing to do with the body's fields.

Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def post(path: str = MESSAGES, **fields: Any) -> Ask:
    request: dict[str, Any] = {"json": message_body(), **fields}
    return lambda client: client.post(path, **request)


def app(**middleware: Any) -> FastAPI:
    return make_app(ScriptedEngine(one_by_one("a")), middleware=replace(MIDDLEWARE, **middleware))


def draining() -> FastAPI:
    found = app()
    found.state.lifecycle.drain()
    return found


def dying() -> FastAPI:
    return make_app(ScriptedEngine(one_by_one("a"), die_after=0))


LOCKED = {"api_keys": ApiKeys(["k"])}
JSON = {"content-type": "application/json"}
OTHERS: list[tuple[Callable[[], FastAPI], Ask, int, str]] = [
    (app, post(json=None, content="{", headers=JSON), 400, BAD),
    (app, post(json=None, content="{}", headers={"content-type": "text/plain"}), 400, BAD),
    (app, post(json=None), 400, BAD),
    (app, post(json=[]), 400, BAD),
    (lambda: app(**LOCKED), post(), 401, "authentication_error"),
    (lambda: app(**LOCKED), post(headers={"x-api-key": "l"}), 401, "authentication_error"),
    (lambda: app(**LOCKED), post(COUNT), 401, "authentication_error"),
    (app, lambda client: client.get(MESSAGES), 405, BAD),
    (app, lambda client: client.get(COUNT), 405, BAD),
    (app, post(f"{MESSAGES}/batches"), 404, "not_found_error"),
    (app, post(f"{MESSAGES}/none"), 404, "not_found_error"),
    (app, post("/v1/none", headers=VERSION), 404, "not_found_error"),
    (app, post("/v1/complete", headers=VERSION), 404, "not_found_error"),
    (lambda: app(max_body_size=9), post(), 413, "request_too_large"),
    (app, post(headers={"content-encoding": "gzip"}), 415, BAD),
    (dying, post(), 500, "api_error"),
    (draining, post(), 503, "overloaded_error"),
]


@pytest.mark.parametrize(("make", "ask", "status", "kind"), OTHERS)
async def test_other_statuses(
    make: Callable[[], FastAPI], ask: Ask, status: int, kind: str
) -> None:
    async with in_process(make()) as client:
        response = await ask(client)
    assert_message_error(response, status, kind)
    headers = {401: "www-authenticate", 405: "allow", 503: "retry-after"}
    if status in headers:
        assert response.headers[headers[status]]


async def test_too_many_requests() -> None:
    engine = ScriptedEngine(one_by_one("a"), hang_after=0)
    full = make_app(engine, middleware=replace(MIDDLEWARE, limits=AdmissionLimits(1, 0)))
    async with in_process(full) as client, asyncio.TaskGroup() as group:
        group.create_task(client.post(MESSAGES, json=message_body()))
        await engine.hangs.wait()
        response = await client.post(MESSAGES, json=message_body())
        engine.let_go.set()
    assert_message_error(response, 429, "rate_limit_error")
    assert response.headers["retry-after"] == "1"


async def test_a_stream_that_fails() -> None:
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    async with in_process(make_app(engine)) as client:
        response = await client.post(MESSAGES, json=message_body(stream=True))
    *begun, error = stream_events(response.text)
    assert begun[-1]["delta"]["text"] == "b"
    assert error == {
        "type": "error",
        "error": {"type": "api_error", "message": "the engine has stopped"},
        "request_id": response.headers["request-id"],
    }


async def test_the_requests_id() -> None:
    async with in_process(app()) as client:
        own = {"x-request-id": "mine"}
        response = await client.post(MESSAGES, json=message_body(), headers=own)
        assert response.headers["request-id"] == response.headers["x-request-id"] == "mine"
        others = await client.get("/v1/models")
        assert "request-id" not in others.headers


@pytest.mark.parametrize("headers", [{}, VERSION])
async def test_openais_endpoints_keep_their_errors(headers: dict[str, str]) -> None:
    """Whole and streamed, whatever a client of all of them sends along."""
    bodies: dict[str, Json] = {
        CHAT: chat_body(), COMPLETIONS: {"prompt": "a"}, "/v1/responses": {"input": "a"},
    }  # fmt: skip
    async with in_process(app()) as client:
        for path, body in bodies.items():
            response = await client.post(path, json={**body, "top_p": 5}, headers=headers)
            assert_error(response, 400, "invalid_value", "top_p")
            assert "request-id" not in response.headers
    engine = ScriptedEngine(one_by_one("abc"), die_after=2)
    async with in_process(make_app(engine)) as client:
        response = await client.post(CHAT, json=chat_body(stream=True), headers=headers)
    *_, error = (event for event in events(response.text) if event != "[DONE]")
    assert isinstance(error, dict)
    assert error["error"]["code"] == "internal_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_generation(stream: bool) -> None:
    engine = ScriptedEngine(one_by_one("ab"), hang_after=1)
    async with live_server(engine) as url, httpx.AsyncClient() as client:
        asking = asyncio.create_task(
            client.post(f"{url}{MESSAGES}", json=message_body(stream=stream))
        )
        await engine.hangs.wait()
        asking.cancel()
        await engine.closed.wait()
    assert engine.num_open == 0
