"""Fields that no API knows, at any depth: refused by default, or left out and logged once."""

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from server.api.body.unknown_fields import UnknownFieldLog
from server.api.chat.schema import ChatRequest
from server.api.completions.schema import CompletionRequest
from server.api.generation.schema.tools import OtherTool
from server.api.schema.fields import RequestModel
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    Json,
    assert_error,
    chat_body,
    in_process,
    live_app,
    make_app,
    post,
)
from tests.doubles import ScriptedEngine, ids, one_by_one

WARN = replace(MIDDLEWARE, drops_unknown_fields=True)

PART = {"type": "text", "text": "hi"}
UNKNOWN: list[tuple[str, Json, str]] = [
    (CHAT, chat_body(temprature=1), "temprature"),
    (CHAT, chat_body(stream=True, stream_options={"a": 1}), "stream_options.a"),
    (CHAT, chat_body(speculation={"b": {}}), "speculation.b"),
    (CHAT, {"messages": [{"role": "user", "content": "hi", "c": []}]}, "messages.0.c"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [PART, {**PART, "d": 1}]}]},
        "messages.0.content.1.d",
    ),
    (COMPLETIONS, {"prompt": "hi", "e": None}, "e"),
    (COMPLETIONS, {"prompt": "hi", "speculation": {"f": 1}}, "speculation.f"),
]


async def warned(path: str, body: object, engine: ScriptedEngine | None = None) -> httpx.Response:
    engine = engine or ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine, middleware=WARN)) as client:
        # Not `json=`, which refuses to send half a surrogate pair.
        headers = {"content-type": "application/json"}
        return await client.post(path, content=json.dumps(body), headers=headers)


def request_models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all that are nested in it."""
    found = {model}
    for field in model.model_fields.values():
        for nested in nested_models(field.annotation):
            found |= request_models(nested)
    return found


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [model for argument in arguments for model in nested_models(argument)]


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_no_nested_object_takes_unknown_fields(model: type[BaseModel]) -> None:
    """A new schema that forgets its base would ignore fields in silence."""
    models = request_models(model)
    assert len(models) > 2
    for nested in models:
        assert issubclass(nested, RequestModel), nested
        # Tools that are no functions are refused as a whole, or left out by a setting.
        expected = "ignore" if nested is OtherTool else "forbid"
        assert nested.model_config.get("extra") == expected, nested


@pytest.mark.parametrize(("path", "body", "field"), UNKNOWN)
async def test_refused_by_default(path: str, body: Json, field: str) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    error = assert_error(await post(engine, path, body), 400, "unknown_field", field)
    assert field in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(("path", "body", "field"), UNKNOWN)
async def test_warned(path: str, body: Json, field: str, caplog: pytest.LogCaptureFixture) -> None:
    response = await warned(path, body)
    assert response.status_code == 200, response.text
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    name = field.replace(".0", ".*").replace(".1", ".*")
    assert record.getMessage() == f"{path}: unknown field {name!r} was left out"


async def test_everything_known_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    message = {"role": "user", "content": [{**PART, "x": 1}], "y": 2, "name": "Ü\ud83d\ude42"}
    body = {"messages": [message], "seed": 7, "z": {"deep": [1]}, "logit_bias": {"5": 2}}
    response = await warned(CHAT, body, engine)
    assert response.status_code == 200, response.text
    (request,) = engine.requests
    assert (request.params.seed, request.params.logit_bias) == (7, {5: 2})
    assert list(request.prompt_token_ids) == ids("user:hi\n")
    assert len(caplog.records) == 3


async def test_what_else_is_wrong_is_still_refused() -> None:
    response = await warned(CHAT, chat_body(mood=1, top_p=5))
    assert_error(response, 400, "invalid_value", "top_p")
    response = await warned(CHAT, chat_body(mood=1, audio={"x": 1}))
    assert_error(response, 400, "unsupported_field", "audio")
    assert_error(await warned(CHAT, {"mood": 1}), 400, "invalid_value", "messages")
    assert_error(await warned(CHAT, [{"mood": 1}]), 400, "invalid_value")


async def test_each_field_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    messages = [{"role": "user", "content": "hi", "mood": 1}] * 3
    async with in_process(make_app(ScriptedEngine(one_by_one("a")), middleware=WARN)) as client:
        for _ in range(3):
            await client.post(CHAT, json={"messages": messages, "a": 1})
            await client.post(COMPLETIONS, json={"prompt": "x", "a": 1})
    logged = sorted(record.getMessage() for record in caplog.records)
    assert [line.split(" was")[0] for line in logged] == [
        f"{CHAT}: unknown field 'a'",
        f"{CHAT}: unknown field 'messages.*.mood'",
        f"{COMPLETIONS}: unknown field 'a'",
    ]


async def test_odd_names_stay_on_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    response = await warned(CHAT, chat_body(**{"a\nb": 1, "x" * 9999: 1, "é": 1, "1": 1}))
    assert response.status_code == 200
    assert len(caplog.records) == 4
    for record in caplog.records:
        assert "\n" not in record.getMessage()
        assert len(record.getMessage()) < 200


async def test_a_name_that_is_no_unicode_is_refused() -> None:
    """Pydantic does not say which one it was, so it can't be left out."""
    assert (await warned(CHAT, chat_body(**{"\ud800": 1, "mood": 1}))).status_code == 400


def test_invented_names_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    log = UnknownFieldLog()
    for number in range(3000):
        log.add(CHAT, f"field{number}")
    assert len(caplog.records) == 1000


async def test_a_client_that_leaves_is_noticed() -> None:
    """The body was replaced; what comes after it was not."""
    engine = ScriptedEngine(one_by_one("abc"), hang_after=1)
    app = make_app(engine, middleware=WARN)
    async with live_app(app) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(client.post(CHAT, json=chat_body(mood=1)))
        await asyncio.wait_for(engine.hangs.wait(), 60)
        request.cancel()
        await asyncio.wait_for(engine.closed.wait(), 60)
