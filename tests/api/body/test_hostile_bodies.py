"""Bodies below the limit of length that would take seconds and gigabytes: refused soon, whatever
they are made of."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from server.api.body import limit as body_limit
from server.api.body.json_body import (
    MAX_CONTAINERS,
    MAX_FIELDS,
    MAX_VALUES,
    read_json,
    without_strings,
)
from server.api.chat.schema import ChatRequest
from server.api.completions.schema import CompletionRequest
from server.api.responses.schema.request import ResponseRequest
from server.api.schema.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOP_LENGTH,
    RequestModel,
)
from server.api.service.tokenize import DetokenizeRequest, TokenizeRequest
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
)
from tests.api.raw_http import address_of, exchange, statuses
from tests.doubles import ScriptedEngine, one_by_one

RESPONSES = "/v1/responses"
JSON = {"content-type": "application/json"}
MESSAGE = '{"role":"user","content":""}'
SIZE = 3_900_000

MODELS = (ChatRequest, CompletionRequest, ResponseRequest, TokenizeRequest, DetokenizeRequest)


def many(entry: str) -> str:
    """A list's inside that fills a body."""
    return ",".join([entry] * (SIZE // (len(entry) + 1)))


def fields(count: int, value: str = "0") -> str:
    return ",".join(f'"k{number}":{value}' for number in range(count))


HOSTILE: dict[str, tuple[str, str]] = {
    "numbers for messages": (CHAT, f'{{"messages":[{many("0")}]}}'),
    "objects for messages": (CHAT, f'{{"messages":[{many("{}")}]}}'),
    "empty messages": (CHAT, f'{{"messages":[{many(MESSAGE)}]}}'),
    "parts": (CHAT, f'{{"messages":[{{"role":"user","content":[{many("{}")}]}}]}}'),
    "calls": (CHAT, f'{{"messages":[{{"role":"assistant","tool_calls":[{many("0")}]}}]}}'),
    "unknown fields": (CHAT, f'{{"messages":[{MESSAGE}],{fields(300_000)}}}'),
    "unknown fields of a message": (CHAT, f'{{"messages":[{{{fields(300_000)}}}]}}'),
    "unknown fields of each message": (CHAT, f'{{"messages":[{many("{" + fields(20) + "}")}]}}'),
    "a long stop string": (CHAT, f'{{"messages":[{MESSAGE}],"n":8,"stop":"{"a" * SIZE}"}}'),
    "stop strings": (CHAT, f'{{"messages":[{MESSAGE}],"stop":[{many("0")}]}}'),
    "biases": (CHAT, f'{{"messages":[{MESSAGE}],"logit_bias":{{{fields(250_000)}}}}}'),
    "metadata": (CHAT, f'{{"messages":[{MESSAGE}],"metadata":{{{fields(250_000)}}}}}'),
    "tools": (CHAT, f'{{"messages":[{MESSAGE}],"tools":[{many("0")}]}}'),
    "choices": (CHAT, f'{{"messages":[{MESSAGE}],"choice":[{many("0")}]}}'),
    "includes": (RESPONSES, f'{{"input":"a","include":[{many("0")}]}}'),
    "items": (RESPONSES, f'{{"input":[{many("0")}]}}'),
    "a mixed prompt": (COMPLETIONS, f'{{"prompt":[1,{many(chr(34) * 2)}]}}'),
    "ids": (COMPLETIONS, f'{{"prompt":[{many("1")}]}}'),
    "lists of ids": (COMPLETIONS, f'{{"prompt":[{many("[1]")}]}}'),
    "wrong ids": (COMPLETIONS, f'{{"prompt":[[{many("-1")}]]}}'),
    "a long text": (CHAT, f'{{"messages":[{{"role":"user","content":"{"a b" * (SIZE // 3)}"}}]}}'),
    "a long prompt": (COMPLETIONS, f'{{"prompt":"{"a b" * (SIZE // 3)}"}}'),
    "a long text of tokens": ("/tokenize", f'{{"prompt":"{"a b" * (SIZE // 3)}"}}'),
    "tokens": ("/detokenize", f'{{"tokens":[{many("0")}]}}'),
    "a list": (CHAT, f"[{many('0')}]"),
    "no end": (CHAT, f"[{many('0')}"),
    "depth": (CHAT, "[" * (SIZE // 2) + "]" * (SIZE // 2)),
    "a long number": (CHAT, f'{{"messages":[{MESSAGE}],"seed":{"9" * SIZE}}}'),
}


@pytest.mark.parametrize(
    ("name", "drops_unknown"),
    [*((name, False) for name in HOSTILE), *((name, True) for name in HOSTILE if "unkn" in name)],
)
async def test_a_hostile_body_costs_little(name: str, drops_unknown: bool) -> None:
    path, body = HOSTILE[name]
    engine = ScriptedEngine([], max_model_len=8192)
    app = make_app(engine, middleware=replace(MIDDLEWARE, drops_unknown_fields=drops_unknown))
    async with in_process(app) as client:
        content = body.encode()
        before = time.process_time()
        response = await client.post(path, content=content, headers=JSON)
        seconds = time.process_time() - before
    assert_error(response, 400, response.json()["error"]["code"], response.json()["error"]["param"])
    assert engine.requests == []
    assert len(response.content) < 1000
    # Seconds of this process: reading the JSON alone takes up to 0.3 of them.
    assert seconds < 3


async def test_errors_take_no_memory() -> None:
    """A thousand bytes for each of a million."""
    path, body = HOSTILE["a mixed prompt"]
    app = make_app(ScriptedEngine([]))
    async with in_process(app) as client:
        content = body.encode()
        tracemalloc.start()
        try:
            await client.post(path, content=content, headers=JSON)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 30 * len(content)


@given(
    st.recursive(
        st.text() | st.integers(),
        lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    )
)
def test_marks_in_strings_do_not_count(document: Any) -> None:
    """What is left is the document with each string for a quote."""

    def bare(value: Any) -> str:
        if isinstance(value, str):
            return '"'
        if isinstance(value, list):
            return f"[{', '.join(map(bare, value))}]"
        if isinstance(value, dict):
            inside = (f'": {bare(each)}' for each in value.values())
            return "{" + ", ".join(inside) + "}"
        return str(value)

    for ascii_only in (True, False):
        body = json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")
        assert without_strings(body).decode() == bare(document)


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for part in schema.values():
            yield from lists(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from lists(part)


@pytest.mark.parametrize("model", MODELS)
def test_every_list_of_a_request_is_bounded(model: type[BaseModel]) -> None:
    """And its validation ends with the first error."""
    found = list(lists(TypeAdapter(model).core_schema))
    assert found
    for schema in found:
        assert schema["fail_fast"], schema
        assert schema.get("max_length", MAX_VALUES + 1) <= MAX_VALUES, schema


def test_a_new_model_ends_with_its_first_error() -> None:
    class New(RequestModel):
        entries: list[list[int]]

    with pytest.raises(ValueError, match="1 validation error"):
        New.model_validate({"entries": [["a", "b"], ["c"]]})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat_body(stop="a" * (MAX_STOP_LENGTH + 1)), "stop"),
        (chat_body(stop=["a", "a" * (MAX_STOP_LENGTH + 1)]), "stop.1"),
        ({"messages": [json.loads(MESSAGE)] * (MAX_MESSAGES + 1)}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 1025}]},
            "messages.0.content",
        ),
        (chat_body(x={"a": [0] * (MAX_VALUES + 2)}), None),
        (chat_body(x=[[]] * MAX_CONTAINERS), None),
        (chat_body(x={str(number): 0 for number in range(MAX_FIELDS + 1)}), None),
    ],
)
async def test_one_too_many(body: Json, param: str | None) -> None:
    async with in_process(make_app(ScriptedEngine([]))) as client:
        assert_error(await client.post(CHAT, json=body), 400, "invalid_value", param)


@pytest.mark.parametrize(
    "body",
    [
        chat_body(stop=["a" * MAX_STOP_LENGTH] * 16),
        {"messages": [json.loads(MESSAGE)] * 3000},
        # In a text these are no values.
        chat_body(metadata={}, user='",[{\\"' * (MAX_CONTAINERS // 2 + 1)),
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * MAX_PARTS}]},
    ],
)
async def test_as_many_as_there_may_be(body: Json) -> None:
    engine = ScriptedEngine(one_by_one("a"), max_model_len=65536)
    async with in_process(make_app(engine)) as client:
        response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "a"


async def test_unknown_fields_of_many_messages_are_left_out() -> None:
    """Each in its own round would take a round for each message."""
    engine = ScriptedEngine(one_by_one("a"), max_model_len=65536)
    app = make_app(engine, middleware=replace(MIDDLEWARE, drops_unknown_fields=True))
    messages = [{"role": "user", "content": "a", f"k{number}": 0} for number in range(500)]
    async with in_process(app) as client:
        response = await client.post(CHAT, json={"messages": messages})
    assert response.status_code == 200, response.text


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "MAX_LONGEST_BODIES", 2)
    middleware = replace(MIDDLEWARE, max_body_size=1000)
    body = json.dumps(chat_body()).encode().ljust(1000)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    closing = head + b"connection: close\r\ncontent-length: 1000\r\n\r\n"
    async with live_app(make_app(ScriptedEngine(one_by_one("a")), middleware=middleware)) as url:
        address = address_of(url)
        held = [await asyncio.open_connection(*address) for _ in range(2)]
        for _, writer in held:
            writer.write(closing + body[:990])
        async with httpx.AsyncClient(base_url=url) as client:
            while True:
                response = await client.post(CHAT, content=body, headers=JSON)
                if response.status_code != 200:
                    break
            assert_error(response, 429, "rate_limit_exceeded")
        for reader, writer in held:
            writer.write(body[990:])
            assert statuses(await reader.read()) == [200]
            writer.close()
        # What they held is free again.
        for _ in range(3):
            assert statuses(await asyncio.to_thread(exchange, address, [closing + body])) == [200]


def test_lists_can_not_hide_in_another_encoding() -> None:
    """The text has three bytes of a quote: counted as UTF-8, all lists would stand in a string."""
    text = '["\u2200",' + "[]," * 300_000 + "[]]"
    with pytest.raises(RequestValidationError):
        read_json(text.encode("utf-16-le"))
    assert read_json(b"\xef\xbb\xbf[1]") == [1]
