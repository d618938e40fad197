"""Other servers' names for what an answer may be: each means what ours does, and two that
contradict each other are refused by both names."""

import json
from itertools import pairwise
from typing import Any

import pytest

from server.api.generation.schema.structured import StructuredFields, StructuredOutputs
from server.api.generation.structured import NAMES
from server.engine.types import Grammar
from tests.api.harness import CHAT, COMPLETIONS, Json, assert_error, chat_body, in_process, make_app
from tests.api.openapi.documented import is_advisory, is_refused
from tests.api.response_types import RESPONSES
from tests.doubles import ScriptedEngine, one_by_one

BASES: dict[str, Json] = {
    CHAT: chat_body(),
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
}
SCHEMA: Json = {"type": "object", "properties": {"é": {"const": 1}}}
EBNF = 'root ::= "a"'
GIVEN: dict[str, tuple[Any, Grammar]] = {
    "regex": ("[ab]+", Grammar("regex", "[ab]+")),
    "choice": (["a", "b"], Grammar("choice", '["a", "b"]')),
    "ebnf": (EBNF, Grammar("ebnf", EBNF)),
    "schema": (SCHEMA, Grammar("json_schema", json.dumps(SCHEMA, ensure_ascii=False))),
    "json_object": (True, Grammar("json_object", "")),
}
"""A value for each thing that can be asked for, and its grammar."""


def body(path: str, fields: dict[str, Any]) -> Json:
    """With dots in names as objects."""
    found: Json = {**BASES[path]}
    for field, value in fields.items():
        outer, _, inner = field.partition(".")
        if inner:
            found[outer] = {**found.get(outer, {}), inner: value}
        else:
            found[outer] = value
    return found


async def grammar(path: str, fields: dict[str, Any]) -> Grammar | None:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(path, json=body(path, fields))
    assert response.status_code == 200, response.text
    return engine.requests[0].params.grammar


async def refused(path: str, fields: dict[str, Any], param: str) -> str:
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response = await client.post(path, json=body(path, fields))
    assert engine.requests == []
    return assert_error(response, 400, "invalid_value", param)["message"]


def test_the_table_has_every_field() -> None:
    fields = {
        (info.alias or name, info)
        for name, info in StructuredFields.model_fields.items()
        if name != "structured_outputs"
    } | {
        (f"structured_outputs.{info.alias or name}", info)
        for name, info in StructuredOutputs.model_fields.items()
    }
    asking = {name for name, info in fields if not is_refused(info) and not is_advisory(info)}
    assert {name for name, _ in NAMES} == asking


@pytest.mark.parametrize("path", BASES)
async def test_each_name(path: str) -> None:
    for field, asks in NAMES:
        value, expected = GIVEN[asks]
        assert await grammar(path, {field: value}) == expected, field
        assert await grammar(path, {field: None}) is None, field
        if asks == "schema":
            assert await grammar(path, {field: json.dumps(value)}) == expected, field


async def test_two_names_for_one_thing() -> None:
    for asks in ("regex", "choice", "ebnf", "schema"):
        value, expected = GIVEN[asks]
        names = [name for name, kind in NAMES if kind == asks]
        assert await grammar(CHAT, dict.fromkeys(names, value)) == expected
    format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    both = {"response_format": format_, "guided_json": SCHEMA}
    assert await grammar(CHAT, both) == GIVEN["schema"][1]


async def test_names_that_contradict_each_other() -> None:
    others: Json = {
        "regex": "b",
        "choice": ["c"],
        "ebnf": 'root ::= "b"',
        "schema": {"type": "object"},
        "json_object": True,
    }
    for (first, asks), (second, asks_other) in pairwise(NAMES):
        fields = {first: GIVEN[asks][0], second: others[asks_other]}
        message = await refused(CHAT, fields, second)
        assert message == f"{second}: can't be combined with {first}"
    fields = {"response_format": {"type": "json_object"}, "guided_json": SCHEMA}
    message = await refused(CHAT, fields, "guided_json")
    assert message == "guided_json: can't be combined with response_format"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("guided_json", "[1]", "guided_json"),
        ("guided_json", "{", "guided_json"),
        ("json_schema", 5, "json_schema"),
        ("structured_outputs.json", "x", "structured_outputs.json"),
        ("guided_regex", "(", "guided_regex"),
        ("ebnf", "x", "ebnf"),
        ("guided_choice", [], "guided_choice"),
        ("structured_outputs.choice", "a", "structured_outputs.choice"),
        (
            "structured_outputs.json",
            {"properties": {"a": {"not": {}}}},
            "structured_outputs.json.properties.a.not",
        ),
        ("structured_outputs", "a", "structured_outputs"),
    ],
)
async def test_a_bad_value_is_named_as_it_was_sent(field: str, value: Any, param: str) -> None:
    await refused(CHAT, {field: value}, param)


@pytest.mark.parametrize(
    ("path", "field", "name"),
    [(CHAT, "response_format", "schema"), (RESPONSES, "text.format", "schema")],
)
async def test_a_json_object_with_a_schema(path: str, field: str, name: str) -> None:
    given = {"type": "json_object", name: SCHEMA}
    assert await grammar(path, {field: given}) == GIVEN["schema"][1]
    wrong = {"type": "json_object", name: {"not": {}}}
    await refused(path, {field: wrong}, f"{field}.schema.not")


async def test_what_has_no_effect_or_is_not_done() -> None:
    fields = {"guided_decoding_backend": "xgrammar", "structured_outputs.disable_fallback": True}
    assert await grammar(CHAT, fields) is None
    for field in ("guided_whitespace_pattern", "structured_outputs.structural_tag"):
        async with in_process(make_app(ScriptedEngine([]))) as client:
            response = await client.post(CHAT, json=body(CHAT, {field: "x"}))
        assert_error(response, 400, "unsupported_field", field)


async def test_a_format_of_responses_and_another_name() -> None:
    fields = {"text.format": {"type": "json_object"}, "guided_json": SCHEMA}
    message = await refused(RESPONSES, fields, "guided_json")
    assert message == "guided_json: can't be combined with text.format"
