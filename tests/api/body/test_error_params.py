"""`param` of an error is always a place in the body that was sent, wherever the fault is."""

import copy
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.schema.field_path import field_path
from server.api.schema.fields import branch, is_branch
from tests.api.harness import CHAT, COMPLETIONS, Json, in_process, make_app
from tests.api.response_types import RESPONSES
from tests.doubles import ScriptedEngine, one_by_one

SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}}
FUNCTION: Json = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
NAMED: Json = {"type": "function", "function": {"name": "f"}}
CALL: Json = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAMPLING: Json = {
    "stop": ["x"],
    "stop_token_ids": [1],
    "logit_bias": {"5": 1},
    "speculation": {"policy": "off", "max_nodes": 3},
    "top_p": 0.5,
}
PARTS: list[Json] = [{"type": "text", "text": "a"}]
BODIES: dict[str, Json] = {
    CHAT: {
        **SAMPLING,
        "messages": [
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "a"},
            {"role": "user", "content": "a"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [NAMED]},
        },
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "metadata": {"a": "b"},
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    COMPLETIONS: {**SAMPLING, "prompt": [[1, 2]], "response_format": {"type": "text"}},
    RESPONSES: {
        **SAMPLING,
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "a"},
            {"type": "reasoning", "summary": []},
        ],
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "include": ["message.output_text.logprobs"],
        "stream_options": {},
        "stream": True,
    },
}
Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> list[Path]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[Path] = []
    for key, entry in inside:
        found.append((*path, key))
        if isinstance(entry, dict | list):
            found += places(entry, (*path, key))
    return found


@cache
def app() -> FastAPI:
    """One for all examples: it takes longer to make than a request."""
    return make_app(ScriptedEngine(one_by_one("a"), max_model_len=10_000))


NAMES = st.sampled_from(
    ["type", "text", "json_schema", "string", "list", "function", "name", "a", "auto", "<branch a>"]
)
WRONG = st.recursive(
    st.sampled_from([None, True, 7, -1, 1.5, "", "text", "list", "function", "json_schema"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


def exists(body: Any, param: str) -> bool:
    """Whether all but its last part is there; the last one may be what is missing."""
    *above, last = param.split(".")
    for name in above:
        if isinstance(body, dict) and name in body:
            body = body[name]
        elif isinstance(body, list) and name.isdigit() and int(name) < len(body):
            body = body[int(name)]
        else:
            return False
    return isinstance(body, dict) or (isinstance(body, list) and int(last) < len(body))


def are_related(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


@pytest.mark.parametrize("path", BODIES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
async def test_the_param_is_a_place_in_the_body(path: str, data: st.DataObject) -> None:
    body = copy.deepcopy(BODIES[path])
    *above, last = data.draw(st.sampled_from(places(body)))
    container: Any = body
    for key in above:
        container = container[key]
    if isinstance(container, dict) and data.draw(st.booleans()):
        last = data.draw(NAMES)  # which may be no field of it
    container[last] = data.draw(WRONG)
    async with in_process(app()) as client:
        response = await client.post(path, json=body)
    if response.status_code == 200:
        return
    assert response.status_code == 400, response.text
    error: Json = response.json()["error"]
    assert error["param"] and exists(body, error["param"]), error
    if "Input should" in error["message"] or error["code"] == "unknown_field":
        place = ".".join(map(str, (*above, last)))
        assert are_related(error["param"], place), (error, place)


@pytest.mark.parametrize(
    ("path", "field", "value", "param"),
    [
        (CHAT, "stop", {}, "stop"),
        (CHAT, "stop", {"string": 1}, "stop"),
        (CHAT, "messages", [{"role": "user", "content": {}}], "messages.0.content"),
        (CHAT, "response_format", {"type": "text", "text": 1}, "response_format.text"),
        (
            CHAT,
            "response_format",
            {"type": "json_schema", "json_schema": {"json_schema": {}}},
            "response_format.json_schema.name",
        ),
        (CHAT, "tool_choice", {"type": {}}, "tool_choice.type"),
        (CHAT, "metadata", {"k" * 65: {}}, f"metadata.{'k' * 65}"),
        (COMPLETIONS, "prompt", {}, "prompt"),
        (COMPLETIONS, "prompt", {"string": "a"}, "prompt"),
        (RESPONSES, "input", {}, "input"),
        (RESPONSES, "input", [{"role": "user", "content": {}}], "input.0.content"),
        (RESPONSES, "text", {"format": {}}, "text.format.type"),
    ],
)
async def test_unions(path: str, field: str, value: object, param: str) -> None:
    base = {CHAT: {"messages": [{"role": "user", "content": "a"}]}, COMPLETIONS: {"prompt": "a"}}
    body = {**base.get(path, {"input": "a"}), field: value}
    engine = ScriptedEngine(one_by_one("a"))
    async with in_process(make_app(engine)) as client:
        response: httpx.Response = await client.post(path, json=body)
    assert response.json()["error"]["param"] == param


def test_the_names_of_branches() -> None:
    assert is_branch(branch("list").tag)
    assert not is_branch("list")
    location = ("a", branch("list").tag, 0, branch("a").tag, "b")
    assert field_path(location, {"a": [{"b": 1}]}) == ["a", "0", "b"]
