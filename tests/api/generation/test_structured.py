"""`response_format`, `regex`, `choice`, `grammar`: what reaches the engine, what is refused."""

import asyncio
import json
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
from httpx import AsyncClient
from openai import AsyncOpenAI
from pydantic import BaseModel

from server.api.generation.structured import schema_grammar
from server.api.middleware.api_keys import ApiKeys
from server.engine.types import Grammar
from tests.api.harness import (
    CHAT,
    COMPLETIONS,
    MIDDLEWARE,
    MODEL,
    Json,
    assert_error,
    chat_body,
    in_process,
    live_app,
    live_server,
    make_app,
    post,
    refused,
)
from tests.doubles import ScriptedEngine, one_by_one

PERSON: Json = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def json_schema(schema: Any, **fields: object) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


ASKED: list[tuple[Json, Grammar | None]] = [
    ({}, None),
    ({"response_format": None, "regex": None, "choice": None, "grammar": None}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "text"}, "regex": "a"}, Grammar("regex", "a")),
    ({"response_format": {"type": "json_object"}}, Grammar("json_object", "")),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        Grammar("json_object", ""),
    ),
    (
        {"response_format": json_schema(PERSON, strict=False, description="é")},
        Grammar("json_schema", json.dumps(PERSON)),
    ),
    ({"regex": "[a-z]+"}, Grammar("regex", "[a-z]+")),
    ({"choice": ["a", "é\n"]}, Grammar("choice", json.dumps(["a", "é\n"]))),
    ({"grammar": 'root ::= "a"'}, Grammar("ebnf", 'root ::= "a"')),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("fields", "expected"), ASKED)
async def test_what_reaches_the_engine(path: str, fields: Json, expected: Grammar | None) -> None:
    engine = ScriptedEngine(one_by_one("a"))
    body = chat_body(**fields) if path == CHAT else {"prompt": "hi", **fields}
    response = await post(engine, path, body)
    assert response.status_code == 200, response.text
    assert engine.requests[0].params.grammar == expected


SCHEMA = "response_format.json_schema.schema"
BAD: list[tuple[str, Any, str]] = [
    ("response_format", {"type": "yaml"}, "response_format.type"),
    ("response_format", {}, "response_format.type"),
    ("response_format", "json_object", "response_format"),
    ("response_format", {"type": []}, "response_format.type"),
    (
        "response_format",
        {"type": "json_object", "schema": {"type": "array"}},
        "response_format.schema.type",
    ),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"schema": PERSON}},
        "response_format.json_schema.name",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "a b"}},
        "response_format.json_schema.name",
    ),
    ("response_format", json_schema([]), SCHEMA),
    ("response_format", json_schema({"type": "any"}), f"{SCHEMA}.type"),
    ("response_format", json_schema({"const": "\ud800"}), SCHEMA),
    ("response_format", json_schema({"title": "x" * 70_000}), SCHEMA),
    (
        "response_format",
        json_schema({"properties": {"tags": {"type": "array", "uniqueItems": True}}}),
        f"{SCHEMA}.properties.tags.uniqueItems",
    ),
    ("response_format", json_schema({"$ref": "#/$defs/é"}), f"{SCHEMA}.$ref"),
    ("regex", "(", "regex"),
    ("regex", "", "regex"),
    ("regex", "a(?<!b)", "regex"),
    ("regex", "x" * 5000, "regex"),
    ("regex", 1, "regex"),
    ("choice", [], "choice"),
    ("choice", "a", "choice"),
    ("choice", ["a"] * 1025, "choice"),
    ("choice", ["a", ""], "choice.1"),
    ("choice", ["a" * 40_000, "b" * 40_000], "choice"),
    ("grammar", "start: x", "grammar"),
    ("grammar", 'x ::= "a"', "grammar"),
    ("grammar", "root ::= y", "grammar"),
    ("grammar", "x" * 70_000, "grammar"),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("field", "value", "param"), BAD, ids=lambda v: str(v)[:40])
async def test_refused(path: str, field: str, value: Any, param: str) -> None:
    error = assert_error(await refused(path, field, value), 400, "invalid_value", param)
    assert len(error["message"]) < 500
    assert "/project/" not in error["message"]


async def test_an_unknown_field_inside_is_refused() -> None:
    response = await refused(CHAT, "response_format", json_schema(PERSON, extra=1))
    assert_error(response, 400, "unknown_field", "response_format.json_schema.extra")


async def test_one_at_a_time() -> None:
    body = chat_body(response_format={"type": "json_object"}, choice=["a"])
    response = await post(ScriptedEngine([]), CHAT, body)
    error = assert_error(response, 400, "invalid_value", "choice")
    assert "response_format" in error["message"]


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    text = schema_grammar("f", {"properties": {"b": {}, "a": {}}}).text
    assert text.index('"b"') < text.index('"a"')


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    name: str | None = None


class Person(BaseModel):
    name: str
    pets: list[Pet]


async def test_the_sdk_parses_into_a_pydantic_model() -> None:
    text = '{"name": "Ann", "pets": [{"kind": "cat", "name": null}]}'
    engine = ScriptedEngine(one_by_one(text))
    async with (
        live_server(engine) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = await client.chat.completions.parse(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], response_format=Person
        )
    assert answer.choices[0].message.parsed == Person(name="Ann", pets=[Pet(kind="cat")])
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["required"] == ["name", "pets"]


class Waiting:
    """Grammars that are never compiled, and who waits for one."""

    def __init__(self) -> None:
        self.num_waiting = 0

    def find(self, grammar: Grammar) -> object | None:
        return None

    async def compile(self, grammar: Grammar, owner: Hashable = None) -> object:
        self.num_waiting += 1
        try:
            return await asyncio.Event().wait()
        finally:
            self.num_waiting -= 1

    async def check_schemas(self, schemas: Sequence[object], owner: Hashable = None) -> None:
        raise AssertionError("nothing asks for it")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(choice=["a"])),
        (COMPLETIONS, {"prompt": "a", "choice": ["a"]}),
        ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_object"}}}),
    ],
)
async def test_whoever_leaves_waits_for_no_grammar(path: str, body: Json) -> None:
    app = make_app(ScriptedEngine([]))
    waiting = Waiting()
    app.state.parts = replace(app.state.parts, grammars=waiting)
    async with live_app(app) as url, AsyncClient(base_url=url) as client, asyncio.timeout(60):
        leaving = asyncio.create_task(client.post(path, json=body))
        while not waiting.num_waiting:
            assert not leaving.done(), leaving.result().text
            await asyncio.sleep(0.005)
        leaving.cancel()
        while waiting.num_waiting:
            await asyncio.sleep(0.005)


async def test_compiling_is_the_key_owners() -> None:
    owners = list[Hashable]()

    class Noting(Waiting):
        def find(self, grammar: Grammar) -> object | None:
            return grammar if len(owners) > 2 else None

        async def compile(self, grammar: Grammar, owner: Hashable = None) -> object:
            owners.append(owner)
            return None

        async def check_schemas(self, schemas: Sequence[object], owner: Hashable = None) -> None:
            owners.append(owner)

    keys = ApiKeys(["anna", "berta"])
    engine = ScriptedEngine(one_by_one("a"), max_model_len=2048)
    app = make_app(engine, middleware=replace(MIDDLEWARE, api_keys=keys))
    app.state.parts = replace(app.state.parts, grammars=Noting())
    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    async with in_process(app) as client:
        for key, fields in (
            ("anna", {"choice": ["a"]}),
            ("berta", {"tools": [tool]}),
            ("anna", {"tools": [tool]}),  # known: nothing is checked
        ):
            headers = {"authorization": f"Bearer {key}"}
            answer = await client.post(CHAT, json=chat_body(**fields), headers=headers)
            assert answer.status_code == 200, answer.text
    assert owners == [keys.find(key) for key in (b"anna", b"berta", b"berta", b"anna")]
